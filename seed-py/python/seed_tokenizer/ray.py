"""Ray: a class for Ray Data's `map_batches`, and whole datasets as tasks of some shards each.

    dataset = ray.data.read_parquet("/shared/images")
    tokens = dataset.map_batches(
        Encoder, fn_constructor_kwargs={"model": "seed-2", "device": "cuda"}, batch_format="pyarrow", batch_size=256,
        compute=ray.data.ActorPoolStrategy(size=8), num_gpus=1,
    )

    done = tokenize_dataset("/shared/laion/*.tar", "/shared/tokens", "seed-2", num_gpus=1, model_options={"device": "cuda"})

Needs `ray[data]` and `pyarrow` where it runs, and this package on every machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from seed_tokenizer import _columns
from seed_tokenizer.errors import ArgumentError, BusyError
from seed_tokenizer.results import Report

# Tasks by default, at the most: each reads the list of the inputs, which is not free where it is long.
MOST_TASKS = 1000

# Arguments of `SeedTokenizer.tokenize_dataset` that are the job's own, or that count within one task only.
OWN = ("shard", "limit", "dry_run")

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class Encoder(_columns.Encoder):
    """For `ray.data.Dataset.map_batches` with `batch_format="pyarrow"` and an `ActorPoolStrategy`.

    An actor has one device: with `num_gpus=1` Ray shows it a single GPU, which is `device="cuda"`. Computing threads are as
    many as the CPUs that the actor was given, or one for each core where it was given none.

    Args:
        model: As in `SeedTokenizer.from_pretrained`; a folder must be on all machines.
        image_column: Column of files as bytes, of paths, of `{"bytes", "path"}` or of uint8 tensors.
        keep_image: Whether that column stays.
        options: Of `SeedTokenizer.from_pretrained`: device, dtype and so on.

    Batches gain the columns `codes`, a `fixed_size_list<uint16>` that is null where there is an error, and `error`, a string
    that is null where there is none. Errors that are not an image's end the job.
    """

    def __init__(self, model: str = "bundled", *, image_column: str = "image", keep_image: bool = False, **options: Any) -> None:
        super().__init__(model, image_column=image_column, keep_image=keep_image, **options)
        _take_threads()
        _columns.load(model, options)  # a model that cannot be loaded is said when the actor starts


def tokenize_dataset(
    inputs: Paths,
    out: str | os.PathLike[str],
    model: str = "bundled",
    *,
    tasks: int | None = None,
    num_cpus: float = 1,
    num_gpus: float = 0,
    max_retries: int = 3,
    model_options: Mapping[str, Any] | None = None,
    progress: Callable[[Report], None] | None = None,
    **options: Any,
) -> Report:
    """`SeedTokenizer.tokenize_dataset` as tasks of Ray: the same files, byte for byte.

    Inputs and output are on storage that all machines see under the same paths. A shard appears whole or not at all, so a
    task whose worker or machine dies is done again by Ray and leaves alone what it had finished; a job that ended, for
    whatever reason, is gone on with by the same call, with as many tasks and machines as then there are.

    Args:
        inputs: As there.
        out: Folder of the output.
        model: As in `SeedTokenizer.from_pretrained`; a folder must be on all machines.
        tasks: Parts that the shards are divided into; by default one a shard, and no more than 1000.
        num_cpus: CPUs of a task, and its computing threads.
        num_gpus: GPUs of a task: 1, or 0. The device itself is named in `model_options`.
        max_retries: How often a task is done again whose worker died.
        model_options: Of `SeedTokenizer.from_pretrained`: device, dtype and so on.
        progress: Called after every task with the statistics so far.
        options: Of `SeedTokenizer.tokenize_dataset`: format, columns, filters and so on. `max_errors` counts within a task.

    Returns:
        The statistics of all tasks, with `tasks`, and `seconds` as the whole took.

    Raises:
        ArgumentError: An option that has no meaning here.
        ray.exceptions.RayTaskError: What ended a task: an exception that is also of the class that
            `SeedTokenizer.tokenize_dataset` raised.
        ray.exceptions.WorkerCrashedError: A worker died more often than `max_retries`.
    """
    import ray

    for name in OWN:
        if name in options:
            raise ArgumentError(f"{name} is not possible here: the job divides the shards itself, and does all of them")
    if tasks is not None and tasks < 1:
        raise ArgumentError(f"tasks = {tasks} is not possible: it must be at least 1")
    start = time.monotonic()
    # Ray gives a process of a GPU up after each task, and the model with it, unless told not to.
    as_task = ray.remote(
        num_cpus=num_cpus, num_gpus=num_gpus, max_retries=max_retries, retry_exceptions=[BusyError], max_calls=0
    )
    part = as_task(_part)
    given = (_absolute(inputs), os.path.abspath(out), model, dict(model_options or {}))
    shards = ray.get(part.remote(*given, {**options, "dry_run": True}, (0, 1)))["shards"]
    tasks = min(shards, tasks or MOST_TASKS)
    waiting = [part.remote(*given, options, (index, tasks)) for index in range(tasks)]
    total = Report(tasks=tasks)
    try:
        while waiting:
            finished, waiting = ray.wait(waiting)
            for name, value in ray.get(finished[0]).items():
                total[name] = total.get(name, 0) + value
            total["seconds"] = time.monotonic() - start
            total["images_per_second"] = total["images"] / total["seconds"]
            if progress:
                progress(Report(total))
    finally:
        for task in waiting:
            ray.cancel(task)
    total["stopped"] = bool(total.get("stopped"))
    return total


def _part(
    inputs: list[str], out: str, model: str, model_options: dict[str, Any], options: dict[str, Any], part: tuple[int, int]
) -> dict[str, Any]:
    _take_threads()
    return dict(_columns.load(model, model_options).tokenize_dataset(inputs, out, shard=part, **options))


def _absolute(inputs: Paths) -> list[str]:
    """Workers have folders of their own to start from."""
    several = [inputs] if isinstance(inputs, (str, os.PathLike)) else inputs
    return [os.path.abspath(os.fspath(path)) for path in several]


def _take_threads() -> None:
    """As many threads as Ray gave CPUs, before the first are started: several workers share a machine."""
    import ray

    if ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE:
        cpus = int(ray.get_runtime_context().get_assigned_resources().get("CPU", 0))
        if cpus:
            os.environ.setdefault("RAYON_NUM_THREADS", str(cpus))
