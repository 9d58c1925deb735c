"""A tiny UNet of diffusers whose residual blocks are scaled and shifted by time and class: `resnet_time_scale_shift`.

Writes, beside this file, config.json and diffusion_pytorch_model.safetensors, as diffusers saves them, and cases.safetensors:
`sample` [2, 4, 6, 10], `context` [2, 3, 12] and `class_labels` [2, 10], what goes in, and `output` [2, 4, 6, 10] at the
timesteps 401 and 7.

Needs diffusers, torch and safetensors; made with diffusers 0.42.1 and torch 2.15.
"""
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

FOLDER = Path(__file__).parent

torch.manual_seed(20)
unet = UNet2DConditionModel(
    sample_size=8,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    block_out_channels=(8, 16),
    layers_per_block=1,
    attention_head_dim=(2, 4),
    cross_attention_dim=12,
    use_linear_projection=True,
    class_embed_type="projection",
    projection_class_embeddings_input_dim=10,
    norm_num_groups=4,
    resnet_time_scale_shift="scale_shift",
).eval()
cases = {
    "sample": torch.randn(2, 4, 6, 10),
    "context": torch.randn(2, 3, 12),
    "class_labels": torch.randn(2, 10),
}
with torch.no_grad():
    for parameter in unet.parameters():  # biases and norms too, and loud enough to be seen
        parameter.add_(0.2 * torch.randn_like(parameter))
    answer = unet(cases["sample"], torch.tensor([401, 7]), cases["context"], class_labels=cases["class_labels"])
unet.save_pretrained(FOLDER)
save_file({**cases, "output": answer.sample}, FOLDER / "cases.safetensors")
