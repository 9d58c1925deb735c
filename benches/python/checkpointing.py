"""What gradient checkpointing saves and costs: peak memory and speed of `seed train` with it and without, in turns.

The stage vision, and the UNet of a random tokenizer, of the bundled model's recipe at larger sizes; a few steps of each.

    python checkpointing.py --seed ../../target/release/seed --repeats 3
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

RECIPE = Path(__file__).parents[2] / "weights/recipes/scenes-tiny.toml"
STEPS = 4
VISION = {
    "model.image_size": 112, "model.patch_size": 8, "model.vit_width": 512, "model.vit_depth": 12,
    "model.vit_heads": 8, "model.vit_mlp": 2048, "vision.steps": STEPS, "vision.batch": 16, "vision.warmup": 1,
}  # fmt: skip
UNET = {
    "model.image_size": 128, "diffusion.unet_channels": [128, 256, 256], "diffusion.vae_channels": [4, 4, 4],
    "diffusion.pool": 64,
    "vision.steps": 1, "vision.batch": 2, "vision.warmup": 0, "stage1.steps": 1, "stage1.batch": 2, "stage1.warmup": 0,
    "stage2.steps": 1, "stage2.batch": 2, "stage2.warmup": 0, "vae.steps": 1, "vae.batch": 2, "vae.warmup": 0,
    "decoder.steps": STEPS, "decoder.batch": 32, "decoder.warmup": 1,
}  # fmt: skip


def run(seed: Path, stage: str, sizes: dict, checkpointing: bool) -> tuple[float, float]:
    """Peak memory in MB and images a second of `stage`, the last of the run's."""
    options = {**sizes, f"{stage}.gradient_checkpointing": checkpointing}
    with tempfile.TemporaryDirectory() as folder:
        command = [seed, "train", RECIPE, "--out", folder, "--until", stage]
        for key, value in options.items():
            command += ["--set", f"{key}={json.dumps(value)}"]
        command = [str(part) for part in command]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, output
        rows = [json.loads(line) for line in (Path(folder) / stage / "metrics.jsonl").read_text().splitlines()]
        return usage.ru_maxrss * 1024 / 1e6, rows[-1]["images_per_second"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=Path, required=True, help="the program `seed`")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print("| stage | peak without | peak with | of it | speed with, of that without |")
    print("|---|---|---|---|---|")
    for stage, sizes in {"vision": VISION, "decoder": UNET}.items():
        pairs = [[run(arguments.seed, stage, sizes, on) for on in (False, True)] for _ in range(arguments.repeats)]
        kept, again = (statistics.median(pair[side][0] for pair in pairs) for side in (0, 1))
        ratios = sorted(pair[1][1] / pair[0][1] for pair in pairs)
        speed = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"| {stage} | {kept:.0f} MB | {again:.0f} MB | {again / kept:.2f} | {speed} |", flush=True)


if __name__ == "__main__":
    main()
