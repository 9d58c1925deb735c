"""Hugging Face `datasets`: codes by `map`.

    tokens = encode(datasets.load_dataset("parquet", data_files="*.parquet", split="train"), "seed-2")

Images are taken as the files that they are, undecoded. `datasets` keeps results by the name of the model and the options: after
other weights under the same name, pass `load_from_cache_file=False`.
"""

from __future__ import annotations

from typing import Any, TypeVar

from seed_tokenizer._columns import Encoder

__all__ = ["Encoder", "encode"]

AnyDataset = TypeVar("AnyDataset")


def encode(
    dataset: AnyDataset,
    model: str = "bundled",
    *,
    image_column: str = "image",
    keep_image: bool = False,
    batch_size: int = 256,
    model_options: dict[str, Any] | None = None,
    **map_options: Any,
) -> AnyDataset:
    """The dataset with the columns `codes` and `error`.

    Args:
        dataset: A `Dataset`, `IterableDataset`, or a dict of either.
        model: As in `SeedTokenizer.from_pretrained`.
        image_column: Column of images, of files as bytes, or of paths.
        keep_image: Whether that column stays.
        batch_size: Rows that are encoded in one call.
        model_options: Of `SeedTokenizer.from_pretrained`: device, dtype and so on.
        map_options: Of `map`: num_proc and so on.
    """
    encoder = Encoder(model, image_column=image_column, keep_image=keep_image, **(model_options or {}))
    tables: Any = dataset.with_format("arrow")  # type: ignore[attr-defined]
    encoded: AnyDataset = tables.map(encoder, batched=True, batch_size=batch_size, **map_options).with_format(None)
    return encoded
