"""Spark: codes by `mapInArrow`.

    tokens = encode(spark.read.parquet("/shared/images"), "seed-2", image_column="bytes")

Spark knows neither unsigned integers nor lists of one length: codes are `array<int>` there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from seed_tokenizer import _columns

if TYPE_CHECKING:
    import pyarrow as _pa


class Encoder(_columns.Encoder):
    """For `DataFrame.mapInArrow`: batches with a column of images to batches with `codes` and `error`; arguments of `encode`."""

    def __call__(self, batches: Iterator[_pa.RecordBatch]) -> Iterator[_pa.RecordBatch]:  # type: ignore[override]
        import pyarrow as pa

        for batch in batches:
            table = super().__call__(pa.Table.from_batches([batch]))
            place = table.schema.get_field_index("codes")
            table = table.set_column(place, "codes", table["codes"].cast(pa.list_(pa.int32())))
            yield from table.combine_chunks().to_batches()


def encode(frame: Any, model: str = "bundled", *, image_column: str = "image", keep_image: bool = False, **options: Any) -> Any:
    """The `DataFrame` with the columns `codes` and `error`.

    Args:
        frame: A `pyspark.sql.DataFrame`.
        model: As in `SeedTokenizer.from_pretrained`; a folder must be on all machines.
        image_column: Column of files as bytes, or of paths.
        keep_image: Whether that column stays.
        options: Of `SeedTokenizer.from_pretrained`: device, dtype and so on.
    """
    from pyspark.sql.types import ArrayType, IntegerType, StringType, StructField, StructType

    encoder = Encoder(model, image_column=image_column, keep_image=keep_image, **options)
    encoder.check(frame.columns)
    kept = [field for field in frame.schema.fields if keep_image or field.name != image_column]
    added = [StructField("codes", ArrayType(IntegerType())), StructField("error", StringType())]
    return frame.mapInArrow(encoder, StructType(kept + added))
