"""Writes this folder from the full case: three AdamW steps of either stage, made by the reference network in PyTorch.

    python make.py ORACLE_DIR CASE_DIR

ORACLE_DIR holds `seed_oracle.py`, CASE_DIR the case `training` that its `make_golden.py` writes (config.json, weights and
cases.safetensors). What a stage holds fixed is replaced by what it makes of the pixels: patch features before their norm for
stage 1, causal embeddings for stage 2. Position embeddings that no caption reaches are left out: their only update is decay.
Made with torch 2.13.0 (CPU, float32).
"""

import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])

import seed_oracle as oracle  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

case, out = Path(sys.argv[2]), Path(__file__).parent
sizes = json.loads((case / "config.json").read_text())
config = oracle.Config(**{k: v for k, v in sizes.items() if k not in ("text_vocab", "embed_dim")})
cases = load_file(case / "cases.safetensors")
pixels = cases.pop("pixels")
tokens = cases["ids"].shape[1]


def network(name: str, vocab: int) -> tuple[dict[str, torch.Tensor], oracle.Seed]:
    weights = load_file(case / f"{name}.safetensors")
    model = oracle.Seed(config, text_vocab=vocab)
    own = ("vision_proj", "text_proj", "temp")
    model.load_state_dict({k: v for k, v in weights.items() if not k.startswith(own)})
    return weights, model.eval()


with torch.no_grad():
    stage1, model = network("stage1", sizes["text_vocab"])
    cases["patches"] = model.visual_encoder(pixels)
    stage2, model = network("stage2", 0)
    cases["causal"] = model.causal_embeddings(model.vision(pixels))
positions = "Qformer.bert.embeddings.position_embeddings.weight"
stage1[positions] = stage1[positions][:tokens]
keep1 = ("Qformer", "query_tokens", "ln_vision", "vision_proj", "text_proj", "temp")
drop2 = ("visual_encoder", "Qformer", "query_tokens", "ln_vision")
stage1 = {k: v.contiguous() for k, v in stage1.items() if k.startswith(keep1)}
stage2 = {k: v.contiguous() for k, v in stage2.items() if not k.startswith(drop2)}
save_file(stage1, out / "stage1.safetensors")
save_file(stage2, out / "stage2.safetensors")
save_file({k: v.contiguous() for k, v in cases.items()}, out / "cases.safetensors")
shutil.copy(case / "config.json", out / "config.json")
