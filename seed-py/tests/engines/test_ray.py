"""Ray on this machine: two workers, one of which is killed in the middle."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
import ray.data
from seed_tokenizer import SeedTokenizer, verify_dataset
from seed_tokenizer.errors import ArgumentError, OtherRunError
from seed_tokenizer.ray import Encoder, tokenize_dataset

from .conftest import EXAMPLES, check


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    # More CPUs than workers: Ray Data waits forever where its actors hold all of them and something is left to read.
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20)
    yield
    ray.shutdown()


def tokens(table: pa.Table, encoder: type, **arguments: object) -> list[dict[str, object]]:
    dataset = ray.data.from_arrow(table).repartition(8)
    actors = ray.data.ActorPoolStrategy(size=2)
    mapped = dataset.map_batches(
        encoder, fn_constructor_kwargs=arguments, batch_format="pyarrow", batch_size=5, compute=actors
    )
    return mapped.take_all()


def test_map_batches(table: pa.Table, expected: dict[int, list[int] | None]) -> None:
    check(tokens(table, Encoder), expected)


def test_an_actor_that_is_killed_loses_no_row(table: pa.Table, expected: dict[int, list[int] | None], tmp_path: Path) -> None:
    class Dying(Encoder):
        """Kills its own process in the middle of the work, once. (It is in here so that it is pickled whole.)"""

        def __init__(self, marker: str) -> None:
            super().__init__()
            self.marker = marker

        def __call__(self, table: pa.Table) -> pa.Table:
            if 17 in table["id"].to_pylist() and not os.path.exists(self.marker):
                os.close(os.open(self.marker, os.O_CREAT | os.O_EXCL))
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(table)

    marker = tmp_path / "killed"
    check(tokens(table, Dying, marker=str(marker)), expected)
    assert marker.exists()


def test_images_that_ray_has_decoded(seed: SeedTokenizer) -> None:
    images = ray.data.read_images([str(path) for path in EXAMPLES], include_paths=True)
    actors = ray.data.ActorPoolStrategy(size=1)
    rows = images.map_batches(Encoder, batch_format="pyarrow", compute=actors).take_all()
    assert len(rows) == len(EXAMPLES)
    for row in rows:
        np.testing.assert_array_equal(row["codes"], seed.encode(row["path"]))


def data(out: Path) -> dict[str, bytes]:
    """The bytes of every file of an output."""
    return {path.name: path.read_bytes() for path in out.glob("*.parquet")}


def kill_a_writer(out: Path, killed: list[int]) -> None:
    """Kills the first process that is seen to write a shard while another shard is done already."""
    deadline = time.monotonic() + 60
    while not killed and time.monotonic() < deadline:
        if not list(out.glob("*.parquet")):
            continue
        for link in Path("/proc").glob("[0-9]*/fd/*"):
            try:
                target = os.readlink(link)
            except OSError:
                continue
            if target.startswith(f"{out}/__seed__/.writing-") and not target.endswith("(deleted)"):
                os.kill(int(link.parts[2]), signal.SIGKILL)
                killed.append(int(link.parts[2]))
                break


def test_a_job_whose_worker_is_killed_writes_the_bytes_of_one_process(
    seed: SeedTokenizer, folder: Path, tmp_path: Path
) -> None:
    alone = seed.tokenize_dataset(folder, tmp_path / "alone", shard_size=50, shard=(0, 1))
    out, killed, seen = tmp_path / "out", [], []
    killer = threading.Thread(target=kill_a_writer, args=(out, killed))
    killer.start()
    done = tokenize_dataset(folder, out, tasks=2, shard_size=50, progress=seen.append)
    killer.join()
    assert killed and killed[0] != os.getpid()
    assert data(out) == data(tmp_path / "alone") and len(data(out)) == 12
    assert verify_dataset(out)["whole"]
    assert (done["tasks"], done["shards"], len(seen)) == (2, alone["shards"], 2)
    # The task that was done again did not do again what the dead worker had finished.
    assert done["shards_before"] + done["shards_done"] == 12 and done["shards_done"] <= 12
    again = tokenize_dataset(folder, out, shard_size=50)
    assert (again["tasks"], again["shards_before"], again["inputs"]) == (12, 12, 0)


def test_a_job_goes_on_where_another_ended(seed: SeedTokenizer, folder: Path, tmp_path: Path) -> None:
    seed.tokenize_dataset(folder, tmp_path / "alone", shard_size=50, shard=(0, 1))
    seed.tokenize_dataset(folder, tmp_path / "out", shard_size=50, shard=(1, 3))
    done = tokenize_dataset(folder, tmp_path / "out", tasks=5, shard_size=50)
    assert (done["shards_before"], done["shards_done"]) == (4, 8)
    assert data(tmp_path / "out") == data(tmp_path / "alone")


def test_parquet_becomes_parquet(seed: SeedTokenizer, table: pa.Table, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    structs = [None if file is None else {"bytes": file, "path": None} for file in table["image"].to_pylist()]
    given = pa.table({"image": structs, "id": table["id"]})
    for shard in range(2):
        pq.write_table(given.slice(shard * 20, 20), tmp_path / f"{shard}.parquet")
    done = tokenize_dataset(tmp_path / "*.parquet", tmp_path / "out", columns=["id:int"], image_column="image")
    assert (done["rows"], done["failed"]) == (38, 2)
    rows = pq.read_table(tmp_path / "out" / "00000.parquet").to_pylist()
    assert len(rows) == 19
    for row in rows:
        np.testing.assert_array_equal(row["codes"], seed.encode(table["image"][row["id"]].as_py()))


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    tokenize_dataset(EXAMPLES[0], tmp_path / "out")
    with pytest.raises(OtherRunError, match="other settings"):
        tokenize_dataset(EXAMPLES[0], tmp_path / "out", min_side=3)
    for options in ({"shard": (0, 2)}, {"limit": 3}, {"dry_run": True}, {"tasks": 0}, {"format": "csv"}):
        with pytest.raises(ArgumentError):
            tokenize_dataset(folder, tmp_path / "new", **options)
