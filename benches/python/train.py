"""Training steps at the sizes of the bundled model's recipe, seed and PyTorch in turns: steps a second and their ratio.

    cargo build --release
    cargo build --release -p seed-benches
    python benches/python/train.py --seed target/release/seed --seed-bench target/release/seed-bench [--turns 3] [--repeats 5] [--threads 1]

The same steps on either side, in float32: stage 1 trains the causal Q-Former by a contrast of its last embedding behind a fixed
vision transformer, stage 2 trains Q-Former, codebook and detokenizer by three losses, the UNet learns to predict; each with
AdamW, on random data. `seed train` computes the UNet's batch in parts, one a thread, as the recipe says, so its row is measured
twice: the step of `seed-bench` with all threads on one batch, and `seed train` itself with its own data, from its second report on.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encode import random_weights
from folder_to_tokens import Encoder

RECIPE = Path(__file__).parents[2] / "weights" / "recipes" / "scenes-tiny.toml"
BUNDLE = Path(__file__).parents[2] / "weights" / "scenes-tiny"


class Block(nn.Module):
    """A pre-norm transformer block of the detokenizer."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Branch(nn.Module):
    """Positions and blocks."""

    def __init__(self, s: dict):
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, s["num_queries"], s["qformer_width"]) * 0.02)
        self.blocks = nn.Sequential(*(Block(s["qformer_width"], s["decoder_heads"]) for _ in range(s["decoder_depth"])))

    def forward(self, states: Tensor) -> Tensor:
        return self.blocks(states + self.positions)


class Detokenizer(nn.Module):
    """Rows of the codebook to rebuilt embeddings and generation embedding (the head "linear")."""

    def __init__(self, s: dict):
        super().__init__()
        width, dim = s["qformer_width"], s["codebook_dim"]
        self.decode = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, width))
        self.semantic, self.image = Branch(s), Branch(s)
        self.proj = nn.Linear(s["num_queries"] * width, s["generation_dim"])

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        states = self.decode(rows)
        return self.semantic(states), self.proj(self.image(states).flatten(1))


def encoder(s: dict) -> tuple[Encoder, list[Tensor]]:
    """An encoder with random weights, and those of them that learn: all but the vision transformer's."""
    weights = random_weights(s, torch.float32)
    learned = [weight.requires_grad_() for name, weight in weights.items() if not name.startswith(("visual_encoder", "ln_vision"))]
    return Encoder(s, weights), learned


def stage1(recipe: dict) -> Callable[[], None]:
    s, batch = recipe["model"], recipe["stage1"]["batch"]
    network, _ = encoder(s)
    learned = [weight for name, weight in network.weights.items() if name.startswith(("query_tokens", "Qformer"))]
    optimizer = torch.optim.AdamW(learned, recipe["stage1"]["learning_rate"])
    pixels, captions = torch.randn(batch, 3, s["image_size"], s["image_size"]), torch.randn(batch, s["qformer_width"])

    def step() -> None:
        with torch.no_grad():
            features = network.vit(pixels)
        loss = F.cross_entropy(network.qformer(features)[:, -1] @ captions.T, torch.arange(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def stage2(recipe: dict) -> Callable[[], None]:
    s, batch = recipe["model"], recipe["stage2"]["batch"]
    network, learned = encoder(s)
    detokenizer = Detokenizer(s)
    optimizer = torch.optim.AdamW([*learned, *detokenizer.parameters()], recipe["stage2"]["learning_rate"])
    pixels = torch.randn(batch, 3, s["image_size"], s["image_size"])
    settled, target = torch.randn(batch, s["num_queries"], s["qformer_width"]), torch.randn(batch, s["generation_dim"])
    codebook = network.weights["quantize.embedding.weight"]

    def step() -> None:
        with torch.no_grad():
            features = network.vit(pixels)
        hidden = torch.tanh(network.linear("encode_task_layer.0", network.qformer(features)))
        z = network.linear("encode_task_layer.2", hidden)
        with torch.no_grad():
            codes = (codebook.square().sum(1) - 2 * z @ codebook.T).argmin(-1)
        rows = F.embedding(codes, codebook)
        quantize = 0.25 * F.mse_loss(z, rows.detach()) + F.mse_loss(rows, z.detach())
        semantic, generation = detokenizer(z + (rows - z).detach())
        loss = 5 * quantize + 2 * F.mse_loss(semantic, settled) + 2 * F.mse_loss(generation, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def unet(recipe: dict) -> Callable[[], None]:
    from diffusers import UNet2DConditionModel

    d, batch = recipe["diffusion"], recipe["decoder"]["batch"]
    levels = len(d["unet_channels"])
    side = recipe["model"]["image_size"] >> (len(d["vae_channels"]) - 1)
    model = UNet2DConditionModel(
        sample_size=side, in_channels=d["latent_channels"], out_channels=d["latent_channels"],
        block_out_channels=d["unet_channels"], layers_per_block=d["unet_layers"], norm_num_groups=d["unet_groups"],
        down_block_types=("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1), cross_attention_dim=d["context"],
        attention_head_dim=tuple(channels // d["head_dim"] for channels in d["unet_channels"]), use_linear_projection=True,
        class_embed_type="projection", projection_class_embeddings_input_dim=2 * recipe["model"]["generation_dim"],
        resnet_time_scale_shift=d.get("time_scale_shift", "default"),
    ).train()  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), recipe["decoder"]["learning_rate"])
    latents, target = torch.randn(2, batch, d["latent_channels"], side, side)
    labels, context = torch.randn(batch, 2 * recipe["model"]["generation_dim"]), torch.zeros(batch, 1, d["context"])
    timesteps = torch.arange(batch) * 999 // batch

    def step() -> None:
        loss = F.mse_loss(model(latents, timesteps, encoder_hidden_states=context, class_labels=labels).sample, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def seconds(step: Callable[[], None], repeats: int) -> float:
    step()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def our_seconds(program: Path, repeats: int, threads: int) -> list[float]:
    """The medians of the rows of `seed-bench train`, in their order."""
    command = [program, "train", "--repeats", repeats, "--threads", threads]
    text = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True).stdout
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| train")]
    return [float(row[3].removesuffix(" ms ")) / 1e3 for row in rows]


def seconds_of_training(program: Path, steps: int, batch: int, threads: int) -> float:
    """Seconds of a step of the UNet as `seed train` goes on with the bundled one, the first step left out."""
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "train", RECIPE, "--out", folder, "--json", "--quiet", "--threads", threads]
        command += ["--tokenizer", BUNDLE, "--decoder", BUNDLE / "decoder", "--set", "diffusion.pool=256", "--set", "decoder.warmup=1"]
        command += ["--set", f"decoder.steps={1 + steps}"]
        text = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True).stdout
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    reports = [report for report in lines if report.get("stage") == "decoder"]
    since_start = [report["step"] * batch / report["images_per_second"] for report in (reports[0], reports[-1])]
    return (since_start[1] - since_start[0]) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=Path, required=True, help="the command line, a release build")
    parser.add_argument("--seed-bench", type=Path, required=True, help="a release build")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5, help="steps of each turn, after one that is not counted")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = tomllib.loads(RECIPE.read_text())
    steps = {"stage 1": stage1(recipe), "stage 2": stage2(recipe), "UNet": unet(recipe)}
    names = [*steps, "UNet, `seed train`"]
    ours, theirs = [], []
    for _ in range(args.turns):
        rows = our_seconds(args.seed_bench, args.repeats, args.threads)
        rows.append(seconds_of_training(args.seed, 4 * args.repeats, recipe["decoder"]["batch"], args.threads))
        times = [seconds(step, args.repeats) for step in steps.values()]
        ours.append(rows)
        theirs.append([*times, times[-1]])

    def cell(values: list[float]) -> str:
        return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    print(f"float32, {args.threads} threads, {args.turns} turns of {args.repeats} steps, PyTorch {torch.__version__}\n")
    print("| step | seed, steps/s | PyTorch, steps/s | ratio |\n|---|---:|---:|---:|")
    for i, name in enumerate(names):
        pairs = [(1 / a[i], 1 / b[i]) for a, b in zip(ours, theirs, strict=True)]
        print(f"| {name} | {cell([a for a, _ in pairs])} | {cell([b for _, b in pairs])} | {cell([a / b for a, b in pairs])} |")


if __name__ == "__main__":
    main()
