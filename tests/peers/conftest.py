"""The binary under test, the images that all tests share, and how datasets are tokenized."""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

# Read by `datasets` when a test imports it: nothing here is on the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

COUNT = 60
# Several shards, the last of them not full.
SHARD_SIZE = 25
# Variables by which schedulers tell a process which shards are its own.
SCHEDULERS = ("SLURM_PROCID", "SLURM_NTASKS", "RANK", "WORLD_SIZE")

Tokenize = Callable[..., Path]


def rows_of(out: Path) -> list[dict]:
    """All rows of an output in the default format."""
    return [row for path in sorted(out.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


@dataclass(frozen=True)
class Seed:
    """The binary, called with its arguments; returns what it prints."""

    binary: Path

    def __call__(self, *arguments: object, stdin: str = "", cwd: Path | None = None, code: int = 0) -> str:
        command = [str(self.binary), *map(str, arguments)]
        environment = {name: value for name, value in os.environ.items() if name not in SCHEDULERS}
        done = subprocess.run(command, input=stdin, cwd=cwd, env=environment, capture_output=True, text=True)
        assert done.returncode == code, f"{command} ended with {done.returncode}:\n{done.stderr[-2000:]}"
        return done.stdout

    def encode(self, folder: Path) -> dict[str, list[int]]:
        """File name -> codes of the images in a folder."""
        records = map(json.loads, self("encode", "--json", folder).splitlines())
        return {Path(record["path"]).name: record["codes"] for record in records}


@dataclass(frozen=True)
class Scenes:
    """Images in a folder: codes and captions by file name."""

    folder: Path
    codes: dict[str, list[int]]
    captions: dict[str, str]

    @property
    def names(self) -> list[str]:
        """File names in order."""
        return sorted(self.codes)

    def groups(self) -> list[list[str]]:
        """The same names in samples of none, one, two, three, none ... images."""
        names, groups = self.names, []
        while names:
            size = len(groups) % 4
            groups.append(names[:size])
            names = names[size:]
        return groups

    def bytes(self, name: str) -> bytes:
        """Content of an image file."""
        return (self.folder / name).read_bytes()


@pytest.fixture(scope="session")
def seed() -> Seed:
    """The binary that the environment variable SEED names."""
    name = os.environ.get("SEED")
    if not name or not Path(name).is_file():
        pytest.exit(f"SEED names no file ({name}): set it to the binary, or run `make test-peers`", returncode=2)
    return Seed(Path(name).resolve())


@pytest.fixture(scope="session")
def scenes(seed: Seed, tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    """Small PNG images with metadata.jsonl."""
    folder = tmp_path_factory.mktemp("scenes")
    seed("scenes", "--count", COUNT, "--seed", 5, "--out", folder)
    records = map(json.loads, (folder / "metadata.jsonl").read_text().splitlines())
    captions = {record["file_name"]: record["text"] for record in records}
    codes = seed.encode(folder)
    assert len(codes) == COUNT and codes.keys() == captions.keys()
    assert all(len(row) == 32 for row in codes.values()) and len(set(map(tuple, codes.values()))) > COUNT // 2
    return Scenes(folder, codes, captions)


@pytest.fixture
def tokenize(seed: Seed, tmp_path_factory: pytest.TempPathFactory) -> Tokenize:
    """Runs `seed tokenize` and `seed verify`; returns the folder of the output."""

    def run(*arguments: object, code: int = 0, **how: object) -> Path:
        out = tmp_path_factory.mktemp("out")
        seed("tokenize", *arguments, "--out", out, "--shard-size", SHARD_SIZE, code=code, **how)
        seed("verify", out)
        return out

    return run
