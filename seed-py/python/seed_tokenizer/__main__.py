"""`python -m seed_tokenizer`: the command line."""

import sys

from seed_tokenizer._command import main

if __name__ == "__main__":
    sys.argv[0] = "seed"
    sys.exit(main())
