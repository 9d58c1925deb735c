"""The numbers of engines.md: images a second of the engines on this machine, and what a job of many images comes to.

    make test-engines                        # makes the environment
    target/engines/bin/python docs/rates.py  # measures; then the example, with the rate of one process
    target/engines/bin/python docs/rates.py --rate 0.581 --price 2 --devices 64

Needs an idle machine to mean much; it says how busy this one was.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--measured", type=int, default=4000, help="images of a measurement")
parser.add_argument("--rate", type=float, help="images a second and device; nothing is measured then")
parser.add_argument("--images", type=float, default=1e9, help="images of the example")
parser.add_argument("--devices", type=int, default=64, help="devices of the example")
parser.add_argument("--price", type=float, help="price of a device for an hour, in whatever you pay in")
parser.add_argument("--shard-size", type=int, default=10_000)
arguments = parser.parse_args()


def measure(count: int) -> float:
    """Prints a table; returns the rate of one process with one thread."""
    os.environ["RAYON_NUM_THREADS"] = "1"  # a device of the table is one core
    import ray
    import ray.data
    from seed_tokenizer import SeedTokenizer
    from seed_tokenizer.ray import Encoder, tokenize_dataset

    examples = [path.read_bytes() for path in sorted(Path("examples").glob("*.png"))]
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=500 << 20)
    seed = SeedTokenizer.from_pretrained("bundled")
    busy = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "images"
        folder.mkdir()
        for i in range(count):
            (folder / f"{i:06}.png").write_bytes(examples[i % len(examples)])
        done = [0]

        def out() -> Path:
            done[0] += 1
            return Path(place) / f"out{done[0]}"

        def actors() -> None:
            files = ray.data.read_binary_files(str(folder), override_num_blocks=16)
            pool = ray.data.ActorPoolStrategy(size=2)
            arguments = {"image_column": "bytes"}
            tokens = files.map_batches(
                Encoder, fn_constructor_kwargs=arguments, batch_format="pyarrow", batch_size=256, compute=pool
            )
            tokens.write_parquet(str(out()))

        size = max(count // 16, 1)
        rows: list[tuple[str, Callable[[], object]]] = [
            ("one process, one core: `tokenize_dataset`", lambda: seed.tokenize_dataset(folder, out(), shard_size=size)),
            ("Ray, two workers of one core: `ray.tokenize_dataset`", lambda: tokenize_dataset(folder, out(), shard_size=size)),
            ("Ray Data, two actors of one core: `ray.Encoder`", actors),
        ]
        # A worker is started and loads the model once; the second round is what a long job sees.
        rates = []
        for name, run in rows:
            seconds = []
            for _ in range(2):
                start = time.monotonic()
                run()
                seconds.append(time.monotonic() - start)
            rates.append((name, count / seconds[0], count / seconds[1]))
    ray.shutdown()
    print(f"{count} images of the bundled model, {platform.machine()}, {os.cpu_count()} cores, load {busy:.1f} at the beginning\n")
    print("| | images/s, first | images/s, again |\n|---|---:|---:|")
    for name, first, again in rates:
        print(f"| {name} | {first:.0f} | {again:.0f} |")
    print()
    return rates[0][2]


def example(rate: float) -> None:
    """Prints what the job comes to."""
    hours = arguments.images / rate / 3600
    lines = {
        "images": f"{arguments.images:,.0f}",
        "images/s and device, r": f"{rate:.3g}",
        "device hours, N / (3600 r)": f"{hours:,.0f}",
        f"days on {arguments.devices} devices, N / (86400 r D)": f"{hours / 24 / arguments.devices:,.1f}",
        f"shards of {arguments.shard_size:,}, N / S": f"{arguments.images / arguments.shard_size:,.0f}",
        "minutes that a dead worker loses at the most, S / (60 r)": f"{arguments.shard_size / rate / 60:,.1f}",
        "GB of codes, 64 N / 10^9": f"{arguments.images * 64 / 1e9:,.0f}",
    }
    if arguments.price:
        lines[f"cost at {arguments.price:g} a device hour"] = f"{hours * arguments.price:,.0f}"
    print("| | |\n|---|---:|")
    for name, value in lines.items():
        print(f"| {name} | {value} |")


example(arguments.rate or measure(arguments.measured))
