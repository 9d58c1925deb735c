"""The encoder at SEED-2's size, `seed bench` and PyTorch in turns, with random weights: images a second and their ratio.

    cargo build --release
    python benches/python/encode.py --seed target/release/seed --dtype bf16 [--turns 3] [--rounds 2] [--batch-size 4]
"""

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path

import torch
from torch import Tensor

from folder_to_tokens import Encoder

SEED_2 = dict(
    image_size=224, patch_size=14, vit_width=1408, vit_depth=39, vit_heads=16, vit_mlp=6144, qformer_width=768,
    qformer_depth=12, qformer_heads=12, qformer_mlp=3072, cross_attention_every=2, num_queries=32, codebook_size=8192,
    codebook_dim=32,
)  # fmt: skip
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=Path, required=True, help="the command line, a release build")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2, help="batches of each turn, after one that is not measured")
    args = parser.parse_args()

    dtype = DTYPES[args.dtype]
    encoder = Encoder(SEED_2, random_weights(SEED_2, dtype))
    pixels = torch.randn(args.batch_size, 3, SEED_2["image_size"], SEED_2["image_size"], dtype=dtype)
    command = [args.seed, "bench", "--preset", "seed-2", "--json", "--quiet", "--dtype", args.dtype]
    command += ["--batch-size", str(args.batch_size), "--rounds", str(args.rounds)]
    rates = {"seed": [], "PyTorch": []}
    for _ in range(args.turns):
        report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rates["seed"].append(args.batch_size / statistics.median(report["batch_s"]))
        seconds = []
        for _ in range(1 + args.rounds):
            start = time.perf_counter()
            encoder(pixels)
            seconds.append(time.perf_counter() - start)
        rates["PyTorch"].append(args.batch_size / statistics.median(seconds[1:]))
    ratios = [ours / theirs for ours, theirs in zip(rates["seed"], rates["PyTorch"], strict=True)]
    print(f"SEED-2's encoder, {args.dtype}, batch {args.batch_size}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}")
    for name, values in (("seed images/s", rates["seed"]), ("PyTorch images/s", rates["PyTorch"]), ("ratio", ratios)):
        print(f"{name:18}{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f} in {args.turns} turns)")


if __name__ == "__main__":
    main()
