"""SEED: an image becomes 32 discrete tokens that read left to right, and tokens become an image again.

    from seed_tokenizer import SeedTokenizer

    seed = SeedTokenizer.from_pretrained("bundled")
    codes = seed.encode(["cat.jpg", pil_image, array])  # numpy uint16 [3, 32]
    images = seed.decode(codes, num_inference_steps=20, seed=7)

Importing loads no model, and neither numpy nor Pillow. Threads are one for each core; RAYON_NUM_THREADS changes that.
"""

from seed_tokenizer._native import MiniGptVision, SeedTokenizer, __version__, convert, train, verify_dataset
from seed_tokenizer.errors import SeedError
from seed_tokenizer.results import Images, Report

__all__ = [
    "Images",
    "MiniGptVision",
    "Report",
    "SeedError",
    "SeedTokenizer",
    "__version__",
    "convert",
    "train",
    "verify_dataset",
]
