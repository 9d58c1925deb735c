"""datasets, Spark and Daft, each as it is installed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import daft
import datasets
import numpy as np
import pyarrow as pa
import pytest
import seed_tokenizer.daft
import seed_tokenizer.datasets
import seed_tokenizer.spark
from pyspark.sql import SparkSession
from seed_tokenizer import SeedTokenizer
from seed_tokenizer.errors import ArgumentError

from .conftest import EXAMPLES, check

Python = Callable[..., subprocess.CompletedProcess[str]]
Codes = dict[int, list[int] | None]


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    session = builder.config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1").getOrCreate()
    yield session
    session.stop()


def test_a_table(table: pa.Table, expected: Codes) -> None:
    done = seed_tokenizer.datasets.Encoder(keep_image=True)(table)
    assert done.column_names == ["id", "image", "codes", "error"]
    assert done.schema.field("codes").type == pa.list_(pa.uint16(), 32)
    check(done.to_pylist(), expected)
    assert seed_tokenizer.datasets.Encoder()(table.slice(0, 0)).num_rows == 0
    with pytest.raises(ArgumentError, match="no column pixels"):
        seed_tokenizer.datasets.Encoder(image_column="pixels")(table)
    with pytest.raises(ArgumentError, match="codes already"):
        seed_tokenizer.datasets.Encoder()(done)


def test_columns_of_every_kind(seed: SeedTokenizer) -> None:
    pixels = np.stack([seed.decode(seed.encode(path), output_type="np") for path in EXAMPLES[:3]])
    pixels = (np.squeeze(pixels) * 255).astype(np.uint8)
    paths = [str(path) for path in EXAMPLES[:3]]
    for column, images in (
        (pa.array(paths), paths),
        (pa.array([{"bytes": None, "path": path} for path in paths]), paths),
        (pa.FixedShapeTensorArray.from_numpy_ndarray(pixels), list(pixels)),
    ):
        done = seed_tokenizer.datasets.Encoder()(pa.table({"image": column}))
        np.testing.assert_array_equal(done["codes"].to_pylist(), seed.encode(images))


def test_datasets(table: pa.Table, expected: Codes) -> None:
    done = seed_tokenizer.datasets.encode(datasets.Dataset(table), batch_size=6)
    assert done.features["codes"] == datasets.List(datasets.Value("uint16"), length=32)
    check(list(done), expected)


def test_datasets_in_processes(table: pa.Table, expected: Codes, tmp_path: Path, python: Python) -> None:
    """They are forked, so not from a process that has computed, as this one."""
    datasets.Dataset(table).save_to_disk(tmp_path / "table")
    program = """
import sys, datasets, seed_tokenizer.datasets
done = seed_tokenizer.datasets.encode(datasets.load_from_disk(sys.argv[1]), batch_size=6, num_proc=2)
done.to_json(sys.argv[2])
"""
    done = python(program, tmp_path / "table", tmp_path / "rows.jsonl")
    assert done.returncode == 0, done.stderr
    check([json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()], expected)


def test_datasets_of_images(seed: SeedTokenizer) -> None:
    paths = datasets.Dataset.from_dict({"image": [str(path) for path in EXAMPLES]})
    images = paths.cast_column("image", datasets.Image())
    for dataset in (images, images.to_iterable_dataset()):
        rows = list(seed_tokenizer.datasets.encode(dataset))
        np.testing.assert_array_equal([row["codes"] for row in rows], seed.encode(EXAMPLES))


def test_what_spark_calls(table: pa.Table, expected: Codes) -> None:
    batches = list(seed_tokenizer.spark.Encoder()(iter(table.to_batches(max_chunksize=7))))
    assert len(batches) == 6 and all(isinstance(batch, pa.RecordBatch) for batch in batches)
    assert batches[0].schema.field("codes").type == pa.list_(pa.int32())
    check(pa.Table.from_batches(batches).to_pylist(), expected)


@pytest.mark.skipif(not shutil.which("java"), reason="Spark runs on Java, 17 or later")
def test_spark(spark: SparkSession, table: pa.Table, expected: Codes) -> None:
    frame = spark.createDataFrame(list(map(tuple, zip(*table.to_pydict().values()))), "id long, image binary")
    done = seed_tokenizer.spark.encode(frame.repartition(3))
    assert done.columns == ["id", "codes", "error"]
    check([row.asDict() for row in done.collect()], expected)
    with pytest.raises(ArgumentError, match="no column"):
        seed_tokenizer.spark.encode(frame, image_column="pixels")


def test_daft(table: pa.Table, expected: Codes) -> None:
    done = seed_tokenizer.daft.encode(daft.from_arrow(table), batch_size=7, keep_image=True)
    assert done.column_names == ["id", "image", "codes", "error"]
    check(done.to_pylist(), expected)
    with pytest.raises(ArgumentError, match="no column"):
        seed_tokenizer.daft.encode(daft.from_arrow(table), image_column="pixels")
