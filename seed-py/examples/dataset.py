"""A folder of images to shards of tokens: python dataset.py [FOLDER WITH IMAGES]."""

import json
import sys
from pathlib import Path

from seed_tokenizer import SeedTokenizer, verify_dataset

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "examples")
seed = SeedTokenizer.from_pretrained("bundled")

# What would be done; then do it. The same call goes on where a run before was interrupted.
print(seed.tokenize_dataset(folder, "tokens", format="jsonl", shard_size=5, dry_run=True)["shards"], "shards")
done = seed.tokenize_dataset(folder, "tokens", format="jsonl", shard_size=5)
print(done["rows"], "rows,", done["failed"], "failed")

first = json.loads(Path("tokens/00000.jsonl").read_text().splitlines()[0])
print(first["key"], first["caption"], first["codes"][:4])
print("whole:", verify_dataset("tokens")["whole"])

#> 2 shards
#> 8 rows, 0 failed
#> 000000.png a small red dotted square in the top left, left of a small purple dotted triangle at the top, and a small blue plain cross on the left, on a grey gradient [2917, 3107, 414, 3892]
#> whole: True
