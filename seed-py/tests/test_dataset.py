"""tokenize_dataset and verify_dataset."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from seed_tokenizer import Report, SeedTokenizer, verify_dataset
from seed_tokenizer.errors import (
    ArgumentError,
    BusyError,
    DatasetError,
    FolderInUseError,
    InputTypeError,
    OtherRunError,
    TooManyFailuresError,
)

FOLDER = Path(__file__).parents[2] / "examples"


@pytest.fixture
def broken(tmp_path: Path, paths: list[Path]) -> Path:
    """A folder of two images and two files that are none."""
    folder = tmp_path / "broken"
    folder.mkdir()
    for path in paths[:2]:
        (folder / path.name).write_bytes(path.read_bytes())
    for name in ("x.png", "y.jpg"):
        (folder / name).write_bytes(b"no image")
    return folder


def rows(out: Path) -> dict[str, list[int]]:
    lines = [line for path in sorted(out.glob("*.jsonl")) for line in path.read_text().splitlines()]
    return {row["key"]: row["codes"] for row in map(json.loads, lines)}


def test_a_folder_becomes_shards_with_the_codes_of_encode(seed: SeedTokenizer, tmp_path: Path) -> None:
    out, seen = tmp_path / "out", []
    done = seed.tokenize_dataset(FOLDER, out, format="jsonl", shard_size=5, progress=seen.append)
    assert isinstance(done, Report) and "<table>" in done._repr_html_()
    assert (done["shards"], done["rows"], done["failed"], done["stopped"]) == (2, 8, 0, False)
    assert seen[-1]["rows"] == 8 and done["images_per_second"] > 0
    found = rows(out)
    assert len(found) == 8
    for key, codes in found.items():
        np.testing.assert_array_equal(codes, seed.encode(FOLDER / f"{key.removesuffix('.png')}.png"))
    again = seed.tokenize_dataset([str(FOLDER)], str(out), format="jsonl", shard_size=5)
    assert (again["shards_before"], again["inputs"]) == (2, 0)
    assert verify_dataset(out)["whole"]
    (out / "00001.jsonl").write_text("")
    damaged = verify_dataset(out)
    assert not damaged["whole"] and "00001.jsonl" in damaged["first_problems"][0]


@pytest.mark.parametrize("format", ["parquet", "jsonl", "seed-tar", "webdataset", "npy", "megatron"])
def test_every_format_is_whole(seed: SeedTokenizer, tmp_path: Path, format: str) -> None:
    seed.tokenize_dataset(FOLDER, tmp_path / "out", format=format)
    seen: list[tuple[int, int]] = []
    found = verify_dataset(tmp_path / "out", progress=lambda done, all: seen.append((done, all)))
    assert found["whole"] and found["rows"] == 8 and seen[-1] == (1, 1)


def test_ids_of_megatron(seed: SeedTokenizer, tmp_path: Path) -> None:
    seed.tokenize_dataset(FOLDER / "000000.png", tmp_path / "out", format="megatron", ids=(1000, 7, 8))
    block = np.fromfile(next((tmp_path / "out").glob("*.bin")), np.uint16)
    np.testing.assert_array_equal(block, [7, *(seed.encode(FOLDER / "000000.png").astype(int) + 1000), 8])


def test_a_dry_run_writes_nothing(seed: SeedTokenizer, tmp_path: Path) -> None:
    plan = seed.tokenize_dataset(FOLDER, tmp_path / "out", shard_size=3, shard=(1, 2), dry_run=True)
    assert (plan["shards"], plan["own_shards"], plan["samples"], plan["format"]) == (3, 1, 3, "parquet")
    assert plan["tokenizer"]["model"] == "scenes-tiny" and not (tmp_path / "out").exists()


def test_parts_filters_and_limits(seed: SeedTokenizer, tmp_path: Path) -> None:
    for part in range(2):
        done = seed.tokenize_dataset(FOLDER, tmp_path / "parts", format="jsonl", shard_size=2, shard=(part, 2))
        assert done["shards"] == 2
    assert len(rows(tmp_path / "parts")) == 8 and verify_dataset(tmp_path / "parts")["whole"]
    assert seed.tokenize_dataset(FOLDER, tmp_path / "small", min_side=65)["filtered"] == 8
    assert seed.tokenize_dataset(FOLDER, tmp_path / "few", shard_size=2, limit=4)["inputs"] == 4


def test_failures_are_recorded_and_limited(seed: SeedTokenizer, tmp_path: Path, broken: Path) -> None:
    done = seed.tokenize_dataset(broken, tmp_path / "out", format="jsonl")
    assert (done["rows"], done["failed"]) == (2, 2)
    assert "not an image" in (tmp_path / "out" / "__seed__" / "failures" / "00000.jsonl").read_text()
    with pytest.raises(TooManyFailuresError):
        seed.tokenize_dataset(broken, tmp_path / "strict", max_errors=1)


def test_what_is_refused(seed: SeedTokenizer, tmp_path: Path, broken: Path) -> None:
    out = tmp_path / "out"
    seed.tokenize_dataset(FOLDER, out, format="jsonl")
    with pytest.raises(OtherRunError, match="other settings"):
        seed.tokenize_dataset(FOLDER, out, format="jsonl", min_side=10)
    with pytest.raises(FolderInUseError):
        seed.tokenize_dataset(FOLDER, broken)
    with pytest.raises(DatasetError):
        seed.tokenize_dataset(tmp_path / "nowhere", tmp_path / "new")
    with pytest.raises(DatasetError, match="tokenize"):
        verify_dataset(broken)
    for options in (
        {"format": "csv"},
        {"source": "zip"},
        {"columns": ["a:date"]},
        {"shard": (3, 2)},
        {"batch_size": 0},
        {"max_aspect": 0.5},
    ):
        with pytest.raises(ArgumentError):
            seed.tokenize_dataset(FOLDER, tmp_path / "new", **options)
    for inputs in (3, [None]):
        with pytest.raises(InputTypeError):
            seed.tokenize_dataset(inputs, tmp_path / "new")


def test_a_shard_that_another_process_writes(seed: SeedTokenizer, tmp_path: Path) -> None:
    out = tmp_path / "out"
    seed.tokenize_dataset(FOLDER, out, shard_size=5, shard=(1, 2))
    beside = out / "__seed__" / ".writing-00000"
    beside.mkdir(parents=True)
    with (beside / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="shard 0"):
            seed.tokenize_dataset(FOLDER, out, shard_size=5)
    assert seed.tokenize_dataset(FOLDER, out, shard_size=5)["shards_done"] == 1


def test_progress_may_raise(seed: SeedTokenizer, tmp_path: Path) -> None:
    def stop(statistics: dict[str, object]) -> None:
        raise LookupError(statistics["rows"])

    with pytest.raises(LookupError):
        seed.tokenize_dataset(FOLDER, tmp_path / "out", progress=stop)


PROGRAM = """
import sys
from seed_tokenizer import SeedTokenizer
seed = SeedTokenizer.from_pretrained()
print("ready", flush=True)
try:
    seed.tokenize_dataset(sys.argv[1], sys.argv[2], format="jsonl", shard_size=40)
    print("done")
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_ends_after_the_shard_at_hand_and_the_same_call_goes_on(seed: SeedTokenizer, tmp_path: Path, paths: list[Path]) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for i in range(4000):
        os.link(paths[i % 4], many / f"{i:05}.png") if os.stat(paths[0]).st_dev == os.stat(many).st_dev else (
            many / f"{i:05}.png"
        ).write_bytes(paths[i % 4].read_bytes())
    out = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", PROGRAM, many, out], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        deadline = time.monotonic() + 60
        while not (out / "00000.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        killer = threading.Timer(60, process.kill)
        killer.start()
        said = process.stdout.read()
        killer.cancel()
    assert said == "interrupted\n"
    shards = sorted(path.name for path in out.glob("*.jsonl"))
    assert 0 < len(shards) < 100
    assert all(len(rows_of.read_text().splitlines()) == 40 for rows_of in out.glob("*.jsonl")), "shards are whole"
    done = seed.tokenize_dataset(many, out, format="jsonl", shard_size=40, limit=None)
    assert done["shards_before"] >= len(shards) and verify_dataset(out)["whole"]
