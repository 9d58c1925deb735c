"""What the Python package costs besides the core: importing it, and encoding a batch of arrays.

The core is timed in the same process, on images that are in its memory already, in turns with the call from Python.

    make test-python                     # builds the wheel and installs it into target/python
    target/python/bin/python benches/python/package.py
"""

import statistics
import subprocess
import sys
import time

import numpy as np
from seed_tokenizer import SeedTokenizer

ROUNDS = 31
IMPORT = "import time; start = time.perf_counter(); import seed_tokenizer; print(time.perf_counter() - start)"


def milliseconds(seconds: list[float]) -> str:
    return f"{1000 * statistics.median(seconds):.2f} ({1000 * min(seconds):.2f} to {1000 * max(seconds):.2f})"


def encode(seed: SeedTokenizer, batch: int, side: int) -> str:
    """A row of the table: encode from Python beside the core alone."""
    images = list(np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8))
    whole, core = [], []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        seed.encode(images)
        whole.append(time.perf_counter() - start)
        core.append(seed._seconds_of_core(images))  # type: ignore[attr-defined]
    whole, core = whole[1:], core[1:]  # the first is to warm up
    more = 100 * (statistics.median(a / b for a, b in zip(whole, core, strict=True)) - 1)
    return f"| {batch} | {side} | {milliseconds(whole)} | {milliseconds(core)} | {more:+.1f} % |"


def main() -> None:
    imports = [float(subprocess.check_output([sys.executable, "-c", IMPORT])) for _ in range(ROUNDS)]
    print(f"import: {milliseconds(imports)} ms\n")
    print("| batch | side | Python, ms | core alone, ms | median of the ratios |")
    print("|---:|---:|---:|---:|---:|")
    seed = SeedTokenizer.from_pretrained()
    for batch, side in ((1, 64), (8, 64), (32, 64), (128, 64), (8, 512), (32, 512)):
        print(encode(seed, batch, side), flush=True)


if __name__ == "__main__":
    main()
