"""MiniGPT-v2's visual front end in plain PyTorch, small and with random weights, and what it makes of images.

Writes, beside this file:

- config.json: the sizes.
- eva_vit_g.pth: the vision transformer as BLIP-2 publishes it: half precision, keys without a prefix, position embeddings of
  a smaller image, a block more than is used, and the norm and head of its pre-training.
- blip2.pth: `ln_vision` among other weights of BLIP-2.
- minigptv2.pth and minigptv2-default.pth: `llama_proj` and LoRA of the queries and values of two layers, beside entries that
  are no weights, with the keys that older and newer versions of peft write.
- image.png, and cases.safetensors: its `pixels`; `positions`, and every step from the pixels of two images to `embeddings`;
  `plain`, the embeddings without BLIP-2's norm; `image_embeddings`, those of image.png; `q_proj`, a weight of the language model,
  and `q_proj_merged`, the same with layer 1's LoRA in it; and `large`, the position embeddings `small` (16 x 16) at 32 x 32.

Written from arXiv 2310.09478 and 2211.07636; nothing of this repository is used. Needs torch, numpy, safetensors, Pillow.
"""
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn.functional import gelu, interpolate, layer_norm, linear, conv2d, scaled_dot_product_attention

FOLDER = Path(__file__).parent
IMAGE, PATCH, WIDTH, DEPTH, HEADS, HIDDEN, LLM = 32, 4, 16, 2, 2, 24, 32
FILE_SIDE = 5  # patches a side that the file's position embeddings are for
RANK, ALPHA, LAYERS = 4, 16, 2
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]

random = torch.Generator().manual_seed(2310)


def draw(*shape: int, scale: float | None = None) -> torch.Tensor:
    """Normal numbers; of the variance 1 / fan-in unless told otherwise."""
    fan_in = max(1, int(np.prod(shape[1:])))
    return torch.randn(*shape, generator=random) * (fan_in**-0.5 if scale is None else scale)


def vision_transformer() -> dict[str, torch.Tensor]:
    """Weights with the names of EVA's checkpoint."""
    made = {
        "cls_token": draw(1, 1, WIDTH, scale=0.5),
        "pos_embed": draw(1, 1 + FILE_SIDE**2, WIDTH, scale=0.5),
        "patch_embed.proj.weight": draw(WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": draw(WIDTH, scale=0.1),
        "norm.weight": 1 + draw(WIDTH, scale=0.1),
        "norm.bias": draw(WIDTH, scale=0.1),
        "head.weight": draw(3, WIDTH),
        "head.bias": draw(3, scale=0.1),
    }
    for i in range(DEPTH + 1):
        block = {
            "norm1.weight": 1 + draw(WIDTH, scale=0.1),
            "norm1.bias": draw(WIDTH, scale=0.1),
            "attn.qkv.weight": draw(3 * WIDTH, WIDTH),
            "attn.q_bias": draw(WIDTH, scale=0.1),
            "attn.v_bias": draw(WIDTH, scale=0.1),
            "attn.proj.weight": draw(WIDTH, WIDTH),
            "attn.proj.bias": draw(WIDTH, scale=0.1),
            "norm2.weight": 1 + draw(WIDTH, scale=0.1),
            "norm2.bias": draw(WIDTH, scale=0.1),
            "mlp.fc1.weight": draw(HIDDEN, WIDTH),
            "mlp.fc1.bias": draw(HIDDEN, scale=0.1),
            "mlp.fc2.weight": draw(WIDTH, HIDDEN),
            "mlp.fc2.bias": draw(WIDTH, scale=0.1),
        }
        made |= {f"blocks.{i}.{name}": value for name, value in block.items()}
    return {name: value.half() for name, value in made.items()}


def resize_positions(positions: torch.Tensor, side: int) -> torch.Tensor:
    """Position embeddings [1, 1 + n * n, width] of another number of patches; the class token's is kept."""
    number = int((positions.shape[1] - 1) ** 0.5)
    grid = positions.float()[:, 1:].reshape(1, number, number, -1).permute(0, 3, 1, 2)
    grid = interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1].float(), grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def front_end(pixels: torch.Tensor, vit: dict, norm: dict, proj: dict) -> dict[str, torch.Tensor]:
    """Every step from normalised pixels [batch, 3, size, size] to what the language model reads."""
    w = {name: value.float() for name, value in vit.items()}
    positions = resize_positions(vit["pos_embed"], IMAGE // PATCH)
    x = conv2d(pixels, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=PATCH)
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], dim=1) + positions
    for i in range(DEPTH):
        b = {name.removeprefix(f"blocks.{i}."): value for name, value in w.items() if name.startswith(f"blocks.{i}.")}
        y = layer_norm(x, (WIDTH,), b["norm1.weight"], b["norm1.bias"], 1e-6)
        bias = torch.cat([b["attn.q_bias"], torch.zeros(WIDTH), b["attn.v_bias"]])
        qkv = linear(y, b["attn.qkv.weight"], bias).reshape(*y.shape[:2], 3, HEADS, WIDTH // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + linear(y, b["attn.proj.weight"], b["attn.proj.bias"])
        y = layer_norm(x, (WIDTH,), b["norm2.weight"], b["norm2.bias"], 1e-6)
        y = gelu(linear(y, b["mlp.fc1.weight"], b["mlp.fc1.bias"]))
        x = x + linear(y, b["mlp.fc2.weight"], b["mlp.fc2.bias"])
    normed = layer_norm(x, (WIDTH,), norm.get("ln_vision.weight"), norm.get("ln_vision.bias"), 1e-5)
    tokens = normed[:, 1:]
    merged = tokens.reshape(len(tokens), tokens.shape[1] // 4, 4 * WIDTH)
    embeddings = linear(merged, proj["llama_proj.weight"], proj["llama_proj.bias"])
    return {"positions": positions, "vit": x, "normed": normed, "merged": merged, "embeddings": embeddings}


def preprocess(image: Image.Image) -> torch.Tensor:
    """Squashed with Pillow's bicubic filter, and normalised with CLIP's numbers."""
    squashed = np.asarray(image.convert("RGB").resize((IMAGE, IMAGE), Image.BICUBIC), dtype=np.float32)
    normalised = (squashed / np.float32(255) - np.float32(MEAN)) / np.float32(STD)
    return torch.from_numpy(normalised).permute(2, 0, 1)[None]


def main() -> None:
    """Writes the files."""
    torch.set_num_threads(1)
    vit = vision_transformer()
    norm = {"ln_vision.weight": 1 + draw(WIDTH, scale=0.2), "ln_vision.bias": draw(WIDTH, scale=0.2)}
    proj = {"llama_proj.weight": draw(LLM, 4 * WIDTH), "llama_proj.bias": draw(LLM, scale=0.1)}
    lora = {}
    for layer in range(LAYERS):
        for name in ("q_proj", "v_proj"):
            path = f"llama_model.base_model.model.model.layers.{layer}.self_attn.{name}"
            lora[f"{path}.lora_A.weight"] = draw(RANK, LLM)
            lora[f"{path}.lora_B.weight"] = draw(LLM, RANK)

    sizes = {"image_size": IMAGE, "patch_size": PATCH, "vit_width": WIDTH, "vit_depth": DEPTH, "vit_heads": HEADS}
    sizes |= {"vit_mlp": HIDDEN, "llm_width": LLM}
    (FOLDER / "config.json").write_text(json.dumps(sizes, indent=2) + "\n")
    torch.save(vit, FOLDER / "eva_vit_g.pth")
    other = {"query_tokens": draw(1, 2, 3), "temp": torch.tensor(0.07)}
    torch.save({"model": norm | other}, FOLDER / "blip2.pth")
    besides = {"epoch": 4, "config": {"run": {"task": "image_text_pretrain"}}}
    torch.save({"model": proj | lora} | besides, FOLDER / "minigptv2.pth")
    default = {name.replace(".weight", ".default.weight"): value for name, value in lora.items()}
    torch.save({"model": proj | default} | besides, FOLDER / "minigptv2-default.pth")

    noise = torch.randint(0, 256, (24, 40, 3), generator=random, dtype=torch.uint8).numpy()
    noise[6:18, 10:30] = [200, 40, 90]
    image = Image.fromarray(noise)
    image.save(FOLDER / "image.png", optimize=True)

    pixels = torch.randn(2, 3, IMAGE, IMAGE, generator=random)
    cases = {"pixels": pixels} | front_end(pixels, vit, norm, proj)
    cases["plain"] = front_end(pixels, vit, {}, proj)["embeddings"]
    cases["image_embeddings"] = front_end(preprocess(image), vit, norm, proj)["embeddings"]
    cases["q_proj"] = draw(LLM, LLM)
    layer = "llama_model.base_model.model.model.layers.1.self_attn.q_proj"
    change = lora[f"{layer}.lora_B.weight"] @ lora[f"{layer}.lora_A.weight"]
    cases["q_proj_merged"] = cases["q_proj"] + ALPHA / RANK * change
    cases["small"] = draw(1, 1 + 16 * 16, 2, scale=1.0)
    cases["large"] = resize_positions(cases["small"], 32)
    save_file({name: value.contiguous() for name, value in cases.items()}, FOLDER / "cases.safetensors")


if __name__ == "__main__":
    main()
