"""Long calls: the interpreter is free, Ctrl-C ends them, threads share a tokenizer, forks and panics are exceptions."""

import multiprocessing
import os
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from seed_tokenizer import SeedTokenizer, _native
from seed_tokenizer.errors import ForkError, InternalError, SeedError

Python = Callable[..., subprocess.CompletedProcess[str]]


def test_the_interpreter_is_released(seed: SeedTokenizer, arrays: list[np.ndarray]) -> None:
    """Another thread counts on while one encodes; held, it would not get a turn before the end."""
    batch, turns, done = arrays * 200, [], threading.Event()

    def count() -> None:
        while not done.is_set():
            turns.append(time.monotonic())
            time.sleep(0.001)

    counter = threading.Thread(target=count)
    counter.start()
    start = time.monotonic()
    seed.encode(batch)
    end = time.monotonic()
    done.set()
    counter.join()
    during = [turn for turn in turns if start + 0.1 * (end - start) < turn < end - 0.1 * (end - start)]
    assert len(during) >= 5, (len(during), end - start)


def test_threads_share_a_tokenizer(seed: SeedTokenizer, arrays: list[np.ndarray], codes: np.ndarray) -> None:
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda i: seed.encode(arrays[i % 4]), range(40)))
        drawn = list(pool.map(lambda i: seed.decode(codes[i], num_inference_steps=2, output_type="np"), [0, 1, 0, 1]))
    np.testing.assert_array_equal(rows, np.tile(codes, (10, 1)))
    np.testing.assert_array_equal(drawn[:2], drawn[2:])


def test_a_panic_is_an_exception_with_its_text(seed: SeedTokenizer, codes: np.ndarray) -> None:
    for text in ("the sky fell", "näher"):
        with pytest.raises(InternalError, match=text) as raised:
            _native._panic(text)
        assert isinstance(raised.value, SeedError) and isinstance(raised.value, RuntimeError)
    assert seed.embed_codes(codes).size > 0, "and everything works on"


INTERRUPTED = """
import os, signal, sys, threading, time
import numpy as np
from seed_tokenizer import SeedTokenizer

seed = SeedTokenizer.from_pretrained()
image = np.zeros((64, 64, 3), np.uint8)
codes = seed.encode([image])
calls = {
    "encode": lambda: seed.encode([image] * 20_000),
    "embed": lambda: seed.embed([image] * 20_000),
    "decode": lambda: seed.decode(np.repeat(codes, 64, 0), num_inference_steps=999),
    "evaluate": lambda: seed.evaluate("reconstruction", count=2000, num_inference_steps=999),
}
threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
start = time.monotonic()
try:
    calls[sys.argv[1]]()
except KeyboardInterrupt:
    print(f"interrupted after {time.monotonic() - start:.2f}")
    np.testing.assert_array_equal(seed.encode([image]), codes)
    print("and goes on")
"""


@pytest.mark.parametrize("call", ["encode", "embed", "decode", "evaluate"])
def test_ctrl_c_ends_a_call_at_once(python: Python, call: str) -> None:
    done = python(INTERRUPTED, call)
    assert done.returncode == 0 and done.stdout.endswith("and goes on\n"), (done.stdout, done.stderr)
    assert float(done.stdout.split()[2]) < 5, done.stdout


def test_ctrl_c_while_inputs_are_taken_stays_what_it_is(seed: SeedTokenizer, arrays: list[np.ndarray]) -> None:
    """Code of other libraries runs then, in which it may arrive."""

    class Interrupted:
        def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
            raise KeyboardInterrupt

    class Path:
        def __fspath__(self) -> str:
            raise KeyboardInterrupt

    for call in (
        lambda: seed.encode(Interrupted()),
        lambda: seed.decode(Interrupted()),
        lambda: seed.encode([arrays[0], {"path": Path()}]),
        lambda: seed.tokenize_dataset([Path()], "out"),
    ):
        with pytest.raises(KeyboardInterrupt):
            call()


def in_child(work: Callable[[], object]) -> str:
    """What happens in a forked child, in a word."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            outcome = f"done: {work()!r:.20}"
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
        os.write(write, outcome.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        outcome = pipe.read()
    os.waitpid(child, 0)
    return outcome


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_is_refused_with_the_way_out(seed: SeedTokenizer, arrays: list[np.ndarray], codes: np.ndarray) -> None:
    for work in (
        lambda: seed.encode(arrays),
        lambda: seed.decode(codes),
        lambda: SeedTokenizer.from_pretrained(),
    ):
        outcome = in_child(work)
        assert outcome.startswith(ForkError.__name__) and "spawn" in outcome, outcome
    np.testing.assert_array_equal(seed.encode(arrays), codes)


FORKED_BEFORE = """
import multiprocessing
import seed_tokenizer

def work(name):
    return seed_tokenizer.SeedTokenizer.from_pretrained().encode(name).tolist()

if __name__ == "__main__":
    import sys
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(len(pool.map(work, sys.argv[1:])))
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
def test_a_fork_before_the_first_call_is_fine(python: Python, paths: list[object]) -> None:
    done = python(FORKED_BEFORE, *paths)
    assert done.stdout == "4\n", done.stderr


def test_handlers_of_other_signals_run_during_a_call(python: Python) -> None:
    program = """
import os, signal, sys, threading
from seed_tokenizer import SeedTokenizer
import numpy as np
seed = SeedTokenizer.from_pretrained()
threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
seed.encode([np.zeros((64, 64, 3), np.uint8)] * 20_000)
"""
    assert python(program).returncode == 7

