"""Daft: codes as columns of a `DataFrame`.

    tokens = encode(daft.read_parquet("s3://bucket/images"), "seed-2", image_column="bytes", gpus=1)
"""

from __future__ import annotations

from typing import Any

from seed_tokenizer import _columns


def encode(
    frame: Any,
    model: str = "bundled",
    *,
    image_column: str = "image",
    keep_image: bool = False,
    batch_size: int = 256,
    model_options: dict[str, Any] | None = None,
    **class_options: Any,
) -> Any:
    """The `DataFrame` with the columns `codes`, a list of uint16, and `error`.

    Args:
        frame: A `daft.DataFrame`.
        model: As in `SeedTokenizer.from_pretrained`.
        image_column: Column of files as bytes, or of paths.
        keep_image: Whether that column stays.
        batch_size: Rows that are encoded in one call, at the most.
        model_options: Of `SeedTokenizer.from_pretrained`: device, dtype and so on.
        class_options: Of `daft.cls`: gpus, cpus, use_process, max_concurrency and so on.
    """
    import daft

    encoder = _columns.Encoder(model, image_column=image_column, keep_image=keep_image, **(model_options or {}))
    encoder.check(frame.column_names)
    kind = daft.DataType.struct({"codes": daft.DataType.list(daft.DataType.uint16()), "error": daft.DataType.string()})

    class _Rows:
        @daft.method.batch(return_dtype=kind, batch_size=batch_size, unnest=True)  # type: ignore[untyped-decorator]
        def encode(self, images: Any) -> Any:
            seed = _columns.load(encoder.model, encoder.options)
            codes, errors = _columns.codes_and_errors(seed, images.to_pylist())
            rows = [{"codes": row if error is None else None, "error": error} for row, error in zip(codes, errors)]
            return daft.Series.from_pylist(rows, dtype=kind)

    rows = daft.cls(_Rows, **class_options)()
    kept = [name for name in frame.column_names if keep_image or name != image_column]
    return frame.select(*kept, rows.encode(frame[image_column]))
