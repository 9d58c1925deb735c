"""A table of images as engines have them: files that are images, one that is none, and a row without."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from seed_tokenizer import SeedTokenizer

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.png"))

# Rows of `table` without codes, and what their errors say.
BROKEN = {5: "not an image", 20: "no image"}


@pytest.fixture(scope="session")
def table() -> pa.Table:
    """Rows with `id` and `image`, in no order of images that a mix-up of rows could repeat."""
    files: list[bytes | None] = [EXAMPLES[(row * 3 + row // 8) % len(EXAMPLES)].read_bytes() for row in range(40)]
    files[5], files[20] = b"no image", None
    return pa.table({"id": pa.array(range(40), pa.int64()), "image": pa.array(files, pa.binary())})


@pytest.fixture(scope="session")
def expected(seed: SeedTokenizer, table: pa.Table) -> dict[int, list[int] | None]:
    """Codes by `id`, of one call for each image."""
    files = table["image"].to_pylist()
    return {row: None if row in BROKEN else seed.encode(file).tolist() for row, file in enumerate(files)}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of many files, some of them no images."""
    folder = tmp_path_factory.mktemp("images")
    files = [path.read_bytes() for path in EXAMPLES]
    for i in range(600):
        (folder / f"{i:05}.png").write_bytes(b"no image" if i % 97 == 50 else files[i % len(files)])
    return folder


def check(rows: list[dict[str, object]], expected: dict[int, list[int] | None]) -> None:
    """Every row is there once, with its codes or with the reason why it has none."""
    assert sorted(row["id"] for row in rows) == sorted(expected)
    for row in rows:
        codes, error = row["codes"], row["error"]
        assert (None if codes is None else np.asarray(codes).tolist()) == expected[row["id"]], row["id"]
        assert (error is None) if row["id"] not in BROKEN else (BROKEN[row["id"]] in error), row
