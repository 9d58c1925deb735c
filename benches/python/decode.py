"""SEED-2's diffusion decoder, `seed bench` and diffusers in turns, with random weights: seconds of a UNet step and of the autoencoder.

    cargo build --release
    python benches/python/decode.py --seed target/release/seed [--dtype f32 bf16] [--size 512] [--turns 3] [--steps 2]

A step is one call of the UNet (865 million parameters) for one image with guidance, which is a batch of two. Each turn is a
process of its own on either side, so that neither holds the other's memory; the first step of a turn is not counted.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from encode import finish

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
UNET = dict(
    sample_size=96, in_channels=4, out_channels=4, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2,
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True, class_embed_type="projection",
    projection_class_embeddings_input_dim=2048, upcast_attention=True,
)  # fmt: skip
VAE = dict(
    block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, norm_num_groups=32,
    down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
)  # fmt: skip


def random_model(kind: type, config: dict, dtype: torch.dtype, device: str) -> torch.nn.Module:
    """A model of diffusers with random weights, which are made in their type."""
    with torch.device("meta"):
        model = kind(**config)
    model = model.to(dtype).to_empty(device=device).eval()
    for name, weight in model.named_parameters():
        torch.nn.init.constant_(weight, 1.0) if weight.ndim == 1 and name.endswith("weight") else torch.nn.init.uniform_(weight, -0.03, 0.03)
    return model


def diffusers_turn(dtype: torch.dtype, size: int, steps: int, device: str) -> dict:
    """Seconds of each step and of the autoencoder, and the process's peak memory."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    side = size // 8
    with torch.inference_mode():
        unet = random_model(UNet2DConditionModel, UNET, dtype, device)
        shapes = (2, 4, side, side), (2, 77, 1024), (2, 2048)
        sample, context, labels = (torch.randn(shape, dtype=dtype, device=device) for shape in shapes)
        seconds = []
        for step in range(1 + steps):
            start = time.perf_counter()
            finish(unet(sample, 999 - step, encoder_hidden_states=context, class_labels=labels).sample)
            seconds.append(time.perf_counter() - start)
        del unet
        vae = random_model(AutoencoderKL, VAE, dtype, device)
        start = time.perf_counter()
        finish(vae.decode(sample[:1]).sample)
        autoencoder = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"steps_s": seconds, "autoencoder_s": autoencoder, "peak_bytes": peak}


def output(command: list) -> dict:
    return json.loads(subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True).stdout)


def compare(args: argparse.Namespace, dtype: str) -> list[str]:
    """Lines of the table for one type."""
    rest = ["--dtype", dtype, "--size", args.size, "--steps", args.steps, "--device", args.device]
    rest += ["--threads", args.threads] if args.threads else []
    ours = [args.seed, "bench", "--preset", "decoder", "--json", "--quiet", *rest]
    theirs = [sys.executable, __file__, "--diffusers", "--seed", args.seed, *rest]
    turns = []
    for turn in range(args.turns):
        print(f"{dtype}, turn {turn + 1} of {args.turns}", file=sys.stderr)
        turns.append((output(ours), output(theirs)))

    def cell(values: list[float]) -> str:
        return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    def line(name: str, seconds: Callable[[dict], float]) -> str:
        pairs = [(seconds(a), seconds(b)) for a, b in turns]
        cells = cell([a for a, _ in pairs]), cell([b for _, b in pairs]), cell([b / a for a, b in pairs])
        return f"| {name}, {dtype} | {' | '.join(cells)} |"

    peaks = [max(pair[side]["peak_bytes"] for pair in turns) / 1e9 for side in (0, 1)]
    return [
        line("UNet step", lambda turn: statistics.median(turn["steps_s"][1:] or turn["steps_s"])),
        line("autoencoder", lambda turn: turn["autoencoder_s"]),
        f"| peak memory in GB, {dtype} | {peaks[0]:.2f} | {peaks[1]:.2f} | |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=Path, required=True, help="the command line, a release build")
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=["f32", "bf16"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of either side")
    parser.add_argument("--size", type=int, default=768, help="of the image, in pixels")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="of each turn, after one that is not counted")
    parser.add_argument("--threads", type=int, help="of either side")
    parser.add_argument("--diffusers", action="store_true", help="one turn of diffusers alone, as JSON")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.diffusers:
        print(json.dumps(diffusers_turn(DTYPES[args.dtype[0]], args.size, args.steps, args.device)))
        return
    lines = [line for dtype in args.dtype for line in compare(args, dtype)]
    import diffusers

    turns = f"{args.turns} turns of {args.steps} steps"
    versions = f"PyTorch {torch.__version__}, diffusers {diffusers.__version__}"
    where = f"{torch.get_num_threads()} threads" if args.device == "cpu" else torch.cuda.get_device_name()
    print(f"{args.size} x {args.size} pixels with guidance, {where}, {turns}, {versions}\n")
    print("| what | seed, s | diffusers, s | diffusers / seed |\n|---|---:|---:|---:|", *lines, sep="\n")


if __name__ == "__main__":
    main()
