"""The console script `seed`: the same command line as the binary."""

import sys

from seed_tokenizer._native import main as _main


def main() -> int:
    """Runs the command line with the arguments of this process; returns its exit code."""
    return _main(sys.argv)
