"""A folder of images to JSON lines of codes with PyTorch: what `seed tokenize` is measured beside.

Pillow decodes and resizes in the workers of a `DataLoader`, the network of a bundle runs in float32 on the CPU with
PyTorch's fused attention, and rows are written as they come. `--check` compares the codes with rows that `seed` wrote.

    python folder_to_tokens.py --model BUNDLE --images FOLDER --out rows.jsonl --workers 2 [--check seed.jsonl]
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


class Folder(Dataset):
    """Image files as normalized pixels `[3, size, size]`."""

    def __init__(self, folder: Path, size: int):
        self.paths = sorted(folder.glob("*.png"))
        self.size = size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[str, Tensor]:
        path = self.paths[index]
        image = Image.open(path).convert("RGB").resize((self.size, self.size), Image.BICUBIC)
        pixels = (np.asarray(image, np.float32) / 255 - MEAN) / STD
        return path.name, torch.from_numpy(pixels.transpose(2, 0, 1).copy())


class Encoder:
    """Steps 2 to 4 of SEED: pixels `[batch, 3, size, size]` to codes `[batch, queries]`."""

    def __init__(self, sizes: dict, weights: dict[str, Tensor]):
        self.sizes, self.weights = sizes, weights

    @classmethod
    def load(cls, bundle: Path, dtype: torch.dtype = torch.float32) -> "Encoder":
        sizes = json.loads((bundle / "config.json").read_text())["model"]
        return cls(sizes, {key: value.to(dtype) for key, value in load_file(bundle / "model.safetensors").items()})

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], eps)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool = False) -> Tensor:
        split = lambda x: x.unflatten(-1, (heads, -1)).transpose(1, 2)  # noqa: E731
        out = F.scaled_dot_product_attention(split(q), split(k), split(v), is_causal=causal)
        return out.transpose(1, 2).flatten(2)

    def vit(self, pixels: Tensor) -> Tensor:
        w = self.weights
        weight, bias = w["visual_encoder.patch_embed.proj.weight"], w["visual_encoder.patch_embed.proj.bias"]
        patches = F.conv2d(pixels, weight, bias, stride=self.sizes["patch_size"]).flatten(2).transpose(1, 2)
        token = w["visual_encoder.cls_token"].expand(len(pixels), -1, -1)
        x = torch.cat([token, patches], 1) + w["visual_encoder.pos_embed"]
        for i in range(self.sizes["vit_depth"]):
            block = f"visual_encoder.blocks.{i}"
            biases = w[f"{block}.attn.q_bias"], torch.zeros_like(w[f"{block}.attn.q_bias"]), w[f"{block}.attn.v_bias"]
            qkv = F.linear(self.norm(f"{block}.norm1", x, 1e-6), w[f"{block}.attn.qkv.weight"], torch.cat(biases))
            attended = self.attend(*qkv.chunk(3, -1), self.sizes["vit_heads"])
            x = x + self.linear(f"{block}.attn.proj", attended)
            inner = F.gelu(self.linear(f"{block}.mlp.fc1", self.norm(f"{block}.norm2", x, 1e-6)))
            x = x + self.linear(f"{block}.mlp.fc2", inner)
        return self.norm("ln_vision", x, 1e-5)

    def bert(self, name: str, x: Tensor, source: Tensor, causal: bool) -> Tensor:
        q, k, v = (self.linear(f"{name}.self.{part}", y) for part, y in (("query", x), ("key", source), ("value", source)))
        attended = self.attend(q, k, v, self.sizes["qformer_heads"], causal)
        return self.norm(f"{name}.output.LayerNorm", self.linear(f"{name}.output.dense", attended) + x, 1e-12)

    def qformer(self, features: Tensor) -> Tensor:
        x = self.weights["query_tokens"].expand(len(features), -1, -1)
        x = self.norm("Qformer.bert.embeddings.LayerNorm", x, 1e-12)
        for i in range(self.sizes["qformer_depth"]):
            layer = f"Qformer.bert.encoder.layer.{i}"
            x = self.bert(f"{layer}.attention", x, x, causal=True)
            if i % self.sizes["cross_attention_every"] == 0:
                x = self.bert(f"{layer}.crossattention", x, features, causal=False)
            inner = F.gelu(self.linear(f"{layer}.intermediate_query.dense", x))
            x = self.norm(f"{layer}.output_query.LayerNorm", self.linear(f"{layer}.output_query.dense", inner) + x, 1e-12)
        return x

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        return self.codes(self.qformer(self.vit(pixels)))

    def codes(self, causal: Tensor) -> Tensor:
        hidden = torch.tanh(self.linear("encode_task_layer.0", causal))
        latents = self.linear("encode_task_layer.2", hidden).flatten(0, 1)
        rows = self.weights["quantize.embedding.weight"]
        distances = latents.pow(2).sum(1, keepdim=True) + rows.pow(2).sum(1) - 2 * latents @ rows.t()
        return distances.argmin(1).unflatten(0, (len(causal), -1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--check", type=Path, help="JSON lines of `seed tokenize --format jsonl`")
    args = parser.parse_args()

    start = time.perf_counter()
    encoder = Encoder.load(args.model)
    images = Folder(args.images, encoder.sizes["image_size"])
    loader = DataLoader(images, batch_size=args.batch_size, num_workers=args.workers)
    rows = {}
    with args.out.open("w") as out:
        for names, pixels in loader:
            for name, codes in zip(names, encoder(pixels).tolist()):
                rows[name] = codes
                out.write(json.dumps({"key": name, "codes": codes}) + "\n")
    seconds = time.perf_counter() - start
    print(f"{len(rows)} images in {seconds:.2f} s, {len(rows) / seconds:.0f} images/s")
    if args.check:
        expected = {row["key"]: row["codes"] for row in map(json.loads, args.check.read_text().splitlines())}
        differ = sum(a != b for name, codes in expected.items() for a, b in zip(codes, rows[name], strict=True))
        print(f"{differ} of {sum(map(len, expected.values()))} codes differ from {args.check}")


if __name__ == "__main__":
    main()
