"""The encoder at SEED-2's size, `seed bench` and PyTorch in turns, with random weights: images a second, their ratio, seconds a step.

PyTorch computes in the same dtype; beside int8, in which it has no such network, in bfloat16. With `--cold`, instead: a process that
begins, reads a bundle (weights in the page cache, in the dtype of computation unless `--stored` names another) and encodes one image, in
turns, and its peak memory.

    cargo build --release
    python benches/python/encode.py --seed target/release/seed --dtype bf16 [--turns 3] [--rounds 2] [--batch-size 4]
    python benches/python/encode.py --seed target/release/seed --dtype bf16 --cold [--turns 3]
    python benches/python/encode.py --seed target/release/seed --dtype bf16 --device cuda --batch-size 64   # built with the feature cuda
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from folder_to_tokens import Encoder, Folder

SEED_2 = dict(
    image_size=224, patch_size=14, vit_width=1408, vit_depth=39, vit_heads=16, vit_mlp=6144, qformer_width=768,
    qformer_depth=12, qformer_heads=12, qformer_mlp=3072, cross_attention_every=2, num_queries=32, codebook_size=8192,
    codebook_dim=32,
)  # fmt: skip
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "int8": torch.bfloat16}
IMAGES = Path(__file__).resolve().parents[2] / "examples"


def random_weights(s: dict, dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights of the shapes of a model, normal with the standard deviation 0.02, norms of one and zero."""
    weights = {}

    def normal(name: str, *shape: int) -> None:
        weights[name] = torch.randn(shape, dtype=dtype) * 0.02

    def linear(name: str, inner: int, outer: int, bias: bool = True) -> None:
        normal(f"{name}.weight", outer, inner)
        if bias:
            normal(f"{name}.bias", outer)

    def norm(name: str, width: int) -> None:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = torch.ones(width, dtype=dtype), torch.zeros(width, dtype=dtype)

    width, hidden, patch = s["vit_width"], s["vit_mlp"], s["patch_size"]
    normal("visual_encoder.patch_embed.proj.weight", width, 3, patch, patch)
    normal("visual_encoder.patch_embed.proj.bias", width)
    normal("visual_encoder.cls_token", 1, 1, width)
    normal("visual_encoder.pos_embed", 1, 1 + (s["image_size"] // patch) ** 2, width)
    for i in range(s["vit_depth"]):
        block = f"visual_encoder.blocks.{i}"
        norm(f"{block}.norm1", width)
        norm(f"{block}.norm2", width)
        linear(f"{block}.attn.qkv", width, 3 * width, bias=False)
        normal(f"{block}.attn.q_bias", width)
        normal(f"{block}.attn.v_bias", width)
        linear(f"{block}.attn.proj", width, width)
        linear(f"{block}.mlp.fc1", width, hidden)
        linear(f"{block}.mlp.fc2", hidden, width)
    norm("ln_vision", width)
    source, width, hidden = width, s["qformer_width"], s["qformer_mlp"]
    normal("query_tokens", 1, s["num_queries"], width)
    norm("Qformer.bert.embeddings.LayerNorm", width)
    for i in range(s["qformer_depth"]):
        layer = f"Qformer.bert.encoder.layer.{i}"
        reads = [("attention", width)] + [("crossattention", source)] * (i % s["cross_attention_every"] == 0)
        for name, inner in reads:
            for part, inner in (("query", width), ("key", inner), ("value", inner)):
                linear(f"{layer}.{name}.self.{part}", inner, width)
            linear(f"{layer}.{name}.output.dense", width, width)
            norm(f"{layer}.{name}.output.LayerNorm", width)
        linear(f"{layer}.intermediate_query.dense", width, hidden)
        linear(f"{layer}.output_query.dense", hidden, width)
        norm(f"{layer}.output_query.LayerNorm", width)
    linear("encode_task_layer.0", width, width)
    linear("encode_task_layer.2", width, s["codebook_dim"])
    normal("quantize.embedding.weight", s["codebook_size"], s["codebook_dim"])
    return weights


def finish(x: Tensor) -> None:
    """Waits until `x` is computed."""
    if x.is_cuda:
        torch.cuda.synchronize()


@torch.inference_mode()
def steps(encoder: Encoder, pixels: Tensor) -> dict[str, float]:
    """Seconds of each step of a batch, by the names that `seed bench` gives them."""
    seconds, x = {}, pixels
    for name, step in (("vision transformer", encoder.vit), ("causal Q-Former", encoder.qformer), ("codebook", encoder.codes)):
        start = time.perf_counter()
        x = step(x)
        finish(x)
        seconds[name] = time.perf_counter() - start
    return seconds


def show(name: str, values: list[float], unit: str = "") -> None:
    low, high = min(values), max(values)
    print(f"{name:22}{statistics.median(values):.3f}{unit} ({low:.3f} to {high:.3f} in {len(values)} turns)")


def warm(args: argparse.Namespace) -> None:
    """Batches of processes that have begun."""
    dtype = DTYPES[args.dtype]
    weights = {name: weight.to(args.device) for name, weight in random_weights(SEED_2, dtype).items()}
    encoder = Encoder(SEED_2, weights)
    pixels = torch.randn(args.batch_size, 3, SEED_2["image_size"], SEED_2["image_size"], dtype=dtype).to(args.device)
    command = [args.seed, "bench", "--preset", "seed-2", "--json", "--quiet", "--dtype", args.dtype]
    command += ["--batch-size", str(args.batch_size), "--rounds", str(args.rounds), "--device", args.device]
    rates, parts, peaks = {"seed": [], "PyTorch": []}, {"seed": [], "PyTorch": []}, []
    for _ in range(args.turns):
        report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rates["seed"].append(args.batch_size / statistics.median(report["batch_s"]))
        parts["seed"].append({step["name"]: step["seconds"] for step in report["steps"]})
        peaks.append(report["peak_bytes"])
        seconds = []
        for _ in range(1 + args.rounds):
            start = time.perf_counter()
            finish(encoder(pixels))
            seconds.append(time.perf_counter() - start)
        rates["PyTorch"].append(args.batch_size / statistics.median(seconds[1:]))
        parts["PyTorch"].append(steps(encoder, pixels))
    head(args, f"batches of {args.batch_size}")
    show("seed images/s", rates["seed"])
    show("PyTorch images/s", rates["PyTorch"])
    show("ratio", [ours / theirs for ours, theirs in zip(rates["seed"], rates["PyTorch"], strict=True)])
    for step in parts["PyTorch"][0]:
        of = {name: statistics.median(each[step] for each in all) for name, all in parts.items()}
        print(f"{step:22}{of['seed']:.3f} s a batch, PyTorch {of['PyTorch']:.3f} s")
    if None not in peaks:
        print(f"peak memory           {max(peaks) / 1e9:.2f} GB")


def cold(args: argparse.Namespace) -> None:
    """Processes from their beginning to the tokens of one image."""
    image = min(IMAGES.glob("*.png"))
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        bundle = Path(scratch) / "seed-2"
        stored = "bf16" if args.dtype == "int8" else args.dtype
        write = [args.seed, "bench", "--preset", "seed-2", "--stored", args.stored or stored, "--write", bundle]
        subprocess.run(write, check=True)
        ours = [args.seed, "encode", "--quiet", "--model", bundle, "--dtype", args.dtype, image]
        theirs = [sys.executable, __file__, "--seed", args.seed, "--dtype", args.dtype, "--first", bundle, str(image)]
        seconds, peaks = {"seed": [], "PyTorch": []}, {"seed": [], "PyTorch": []}
        for turn in range(1 + args.turns):
            for name, command in (("seed", ours), ("PyTorch", theirs)):
                start = time.perf_counter()
                process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
                _, status, usage = os.wait4(process.pid, 0)
                if os.waitstatus_to_exitcode(status) != 0:
                    sys.exit(f"{name} failed: {command}")
                if turn > 0:  # the first one fills the page cache
                    seconds[name].append(time.perf_counter() - start)
                    peaks[name].append(usage.ru_maxrss * 1024)
    head(args, "one image, cold")
    show("seed", seconds["seed"], " s")
    show("PyTorch", seconds["PyTorch"], " s")
    show("share", [ours / theirs for ours, theirs in zip(seconds["seed"], seconds["PyTorch"], strict=True)])
    print(f"peak memory           {max(peaks['seed']) / 1e9:.2f} GB, PyTorch {max(peaks['PyTorch']) / 1e9:.2f} GB")


def first(args: argparse.Namespace) -> None:
    """What a process of `cold` does with PyTorch."""
    bundle, image = args.first
    dtype = DTYPES[args.dtype]
    encoder = Encoder.load(Path(bundle), dtype)
    folder = Folder(Path(image).parent, encoder.sizes["image_size"])
    _, pixels = folder[folder.paths.index(Path(image))]
    print(encoder(pixels[None].to(dtype)).tolist())


def head(args: argparse.Namespace, what: str) -> None:
    beside = "PyTorch" if args.dtype != "int8" else "bf16 in PyTorch"
    where = f"{torch.get_num_threads()} threads" if args.device == "cpu" else torch.cuda.get_device_name()
    print(f"SEED-2's encoder, {args.dtype}, {what}, {where}, {beside} {torch.__version__}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=Path, required=True, help="the command line, a release build")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of either side, without --cold")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2, help="batches of each turn, after one that is not measured")
    parser.add_argument("--cold", action="store_true", help="processes from their beginning to the first tokens")
    parser.add_argument("--stored", choices=("f32", "f16", "bf16"), help="dtype of the bundle [default: of computation]")
    parser.add_argument("--scratch", type=Path, help="where --cold writes 2.3 GB [default: the system's temporary folder]")
    parser.add_argument("--first", nargs=2, metavar=("BUNDLE", "IMAGE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.first:
        first(args)
    elif args.cold:
        cold(args)
    else:
        warm(args)


if __name__ == "__main__":
    main()
