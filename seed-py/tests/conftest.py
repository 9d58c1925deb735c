"""The built-in model, the example images, and a copy of the bundle to break."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from seed_tokenizer import SeedTokenizer

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.png"))

# Variables by which schedulers tell a process which shards are its own.
for name in ("SLURM_PROCID", "SLURM_NTASKS", "RANK", "WORLD_SIZE"):
    os.environ.pop(name, None)


@pytest.fixture(scope="session")
def paths() -> list[Path]:
    """Paths of example images."""
    assert len(EXAMPLES) >= 4
    return EXAMPLES[:4]


@pytest.fixture(scope="session")
def arrays(paths: list[Path]) -> list[np.ndarray]:
    """The example images as uint8 arrays."""
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


@pytest.fixture(scope="session")
def seed() -> SeedTokenizer:
    """The built-in model."""
    return SeedTokenizer.from_pretrained("bundled")


@pytest.fixture(scope="session")
def codes(seed: SeedTokenizer, paths: list[Path]) -> np.ndarray:
    """Codes of the example images."""
    return seed.encode(paths)


@pytest.fixture
def bundle(seed: SeedTokenizer, tmp_path: Path) -> Path:
    """A bundle in a folder of its own."""
    folder = tmp_path / "bundle"
    seed.save_pretrained(folder)
    return folder


@pytest.fixture
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a program in an interpreter of its own."""

    def run(program: str, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-B", "-c", program, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)

    return run
