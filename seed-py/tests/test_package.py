"""The package as it is installed: imports, stubs, the command line, the examples."""

import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import seed_tokenizer

SOURCES = Path(__file__).parents[1]

Python = Callable[..., subprocess.CompletedProcess[str]]


def test_importing_loads_nothing_else(python: Python) -> None:
    heavy = ("numpy", "PIL", "torch", "pyarrow", "asyncio")
    done = python(f"import sys, seed_tokenizer; print([name for name in {heavy!r} if name in sys.modules])")
    assert done.stdout == "[]\n", done.stderr


def test_versions_agree() -> None:
    assert seed_tokenizer.__version__ == metadata.version("seed-tokenizer")
    extras = {
        "pil": ["pillow"],
        "ray": ["ray[data]"],
        "datasets": ["datasets"],
        "spark": ["pyspark>=4", "pandas", "pyarrow"],
        "daft": ["daft"],
    }
    wanted = [f"{package} ; extra == '{extra}'" for extra, packages in extras.items() for package in packages]
    assert sorted(metadata.requires("seed-tokenizer") or []) == sorted(["numpy>=1.24", *wanted])


def test_everything_that_is_exported_says_what_it_is() -> None:
    for name in seed_tokenizer.__all__:
        if name != "__version__":
            assert getattr(seed_tokenizer, name).__doc__, name


def test_the_stub_is_current() -> None:
    done = subprocess.run([sys.executable, "-B", "stubs.py", "--check"], cwd=SOURCES, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_stub_is_true(tmp_path: Path) -> None:
    """mypy compares it with the module, and accepts what users write."""
    command = [sys.executable, "-m", "mypy.stubtest", "seed_tokenizer", "--mypy-config-file", SOURCES / "pyproject.toml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_users_code_is_typed(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import numpy as np\n"
        "from numpy.typing import NDArray\n"
        "from seed_tokenizer import SeedTokenizer\n"
        "seed = SeedTokenizer.from_pretrained('bundled', device='cpu')\n"
        "codes: NDArray[np.uint16] = seed.encode(['cat.jpg', b'...'])\n"
        "codes, margins = seed.encode('cat.jpg', return_margins=True)\n"
        "lost: int = seed.encode('cat.jpg')\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "program.py:7: error: Incompatible types in assignment" in done.stdout, done.stdout + done.stderr
    assert "Found 1 error" in done.stdout, done.stdout


def test_the_command_line(tmp_path: Path, paths: list[Path], codes: object) -> None:
    script = Path(sys.executable).parent / "seed"
    for command in ([script], [sys.executable, "-m", "seed_tokenizer"]):
        done = subprocess.run([*command, "encode", paths[0]], capture_output=True, text=True)
        assert done.stdout == f"{paths[0]}\t{' '.join(map(str, codes[0]))}\n", done.stderr
        for arguments, code in ((["encode"], 2), (["encode", tmp_path / "no.png"], 1), (["--version"], 0)):
            done = subprocess.run([*command, *arguments], capture_output=True, text=True)
            assert done.returncode == code, (arguments, done.stderr)


def test_the_readmes_lines(tmp_path: Path) -> None:
    """They print what stands below them."""
    block = (SOURCES.parent / "README.md").read_text().split("```python\n")[1].split("```")[0]
    expected = [line.removeprefix("#> ") for line in block.splitlines() if line.startswith("#> ")]
    (tmp_path / "examples").symlink_to(SOURCES.parent / "examples")
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True)
    assert expected and done.stdout.splitlines() == expected, done.stderr


@pytest.mark.parametrize("example", sorted(path.name for path in (SOURCES / "examples").glob("*.py")))
def test_example(example: str, tmp_path: Path) -> None:
    """Each prints what its last lines say."""
    source = (SOURCES / "examples" / example).read_text()
    expected = [line.removeprefix("#> ") for line in source.splitlines() if line.startswith("#> ")]
    assert expected
    command = [sys.executable, SOURCES / "examples" / example, SOURCES.parent / "examples"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == expected
