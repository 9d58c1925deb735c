"""Images to tokens and back: python quickstart.py [FOLDER WITH IMAGES]."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from seed_tokenizer import SeedTokenizer

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "examples")
seed = SeedTokenizer.from_pretrained("bundled", device="cpu")
print(seed)

# Paths, PIL images, arrays, bytes and so on, mixed as they come.
images = [folder / "000000.png", Image.open(folder / "000001.png"), np.asarray(Image.open(folder / "000002.png"))]
codes = seed.encode(images)
print(codes.dtype, codes.shape)
print(*codes[0])

# A list of PIL images; a notebook shows it.
again = seed.decode(codes, num_inference_steps=20, seed=7)
for number, image in enumerate(again):
    image.save(f"again-{number}.png")
print(len(again), again[0].size)

#> SeedTokenizer("bundled", device="cpu", dtype="float32")
#> uint16 (3, 32)
#> 2917 3107 414 3892 2867 2560 3617 2600 4035 4090 2809 336 3865 627 3965 1748 69 3157 1466 3887 301 3262 50 130 3801 743 2055 899 1531 1254 189 3391
#> 3 (64, 64)
