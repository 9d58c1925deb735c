"""Whole runs of diffusers' schedulers with a network that needs no weights.

Writes, beside this file, cases.json, a list of {"name", "config", "steps"}, where a config may have "override", the
class that `from_config` makes of it; and cases.safetensors: `latents` [1, 4, 2, 2], the standard normal start of every
run, and for each case, with the runs of its step counts one after the other, `NAME.timesteps` [calls] that the network
is called at, `NAME.latents` [calls, 1, 4, 2, 2] after each call, and `NAME.sigma` [runs], the init_noise_sigma.

Needs diffusers==0.35.2 (its requests, filelock, pyyaml, regex, pillow, huggingface_hub), torch, numpy and safetensors.
`make.py --check` writes nothing and compares instead, with any version of diffusers: PNDM and DDIM come out bit for bit
the same with 0.20.2, Euler and DPM-Solver++ do not.
"""
import itertools
import json
import sys
import warnings
from pathlib import Path

import diffusers
import numpy as np
import torch
from safetensors.numpy import load_file, save_file

FOLDER = Path(__file__).parent
STEPS = [1, 2, 5, 20]
PNDM, DDIM, EULER, DPM = "PNDMScheduler", "DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"
SHORT = {PNDM: "pndm", DDIM: "ddim", EULER: "euler", DPM: "dpm"}
BETAS = {
    "linear": {"beta_start": 0.0001, "beta_end": 0.02},
    "scaled_linear": {"beta_start": 0.00085, "beta_end": 0.012},
    "squaredcos_cap_v2": {},
}
OWN = {PNDM: {"skip_prk_steps": True}, DDIM: {"clip_sample": False}, EULER: {}, DPM: {}}
VELOCITY = {"prediction_type": "v_prediction"}
SCALED = {"beta_schedule": "scaled_linear", **BETAS["scaled_linear"]}


def listed() -> list[dict]:
    cases = []

    def add(name: str, kind: str, steps: list[int] = STEPS, **fields) -> None:
        config = {"_class_name": kind, **OWN[kind], **fields}
        cases.append({"name": f"{SHORT[kind]}.{name}", "config": config, "steps": steps})

    predictions = ["epsilon", "v_prediction"]
    for kind, prediction, schedule, spacing in itertools.product(
        SHORT, predictions, BETAS, ["leading", "trailing", "linspace"]
    ):
        betas = {"beta_schedule": schedule, **BETAS[schedule]}
        add(f"{prediction}.{schedule}.{spacing}", kind, prediction_type=prediction, timestep_spacing=spacing, **betas)
    for kind, prediction, schedule in itertools.product([EULER, DPM], predictions, BETAS):
        betas = {"beta_schedule": schedule, **BETAS[schedule]}
        add(f"{prediction}.{schedule}.karras", kind, prediction_type=prediction, use_karras_sigmas=True, **betas)

    for kind in SHORT:
        add("defaults", kind)
        add("offset", kind, timestep_spacing="leading", steps_offset=1, set_alpha_to_one=False, **SCALED)
        odd = [3, 7, 61] if kind in [PNDM, DDIM] else [3, 7]
        add("odd", kind, odd, timestep_spacing="trailing", **SCALED)
    for kind in [PNDM, DDIM]:
        add("alpha-one", kind, set_alpha_to_one=True, **SCALED)
        add("alpha-first", kind, set_alpha_to_one=False, **SCALED)
    add("clip", DDIM, **{**SCALED, "clip_sample": True})
    add("clip-range", DDIM, **{**SCALED, **VELOCITY, "clip_sample": True, "clip_sample_range": 1.5})
    for kind in [DDIM, EULER, DPM]:
        add("zero-snr", kind, rescale_betas_zero_snr=True, timestep_spacing="trailing", **SCALED, **VELOCITY)
    for kind in [EULER, DPM]:
        add("zero-snr-epsilon", kind, rescale_betas_zero_snr=True, timestep_spacing="trailing", **SCALED)
        add("sigma-min", kind, final_sigmas_type="sigma_min", **SCALED)
        for spacing in ["leading", "trailing"]:
            add(f"karras-{spacing}", kind, use_karras_sigmas=True, timestep_spacing=spacing, **SCALED)
    add("karras-sigma-min", EULER, use_karras_sigmas=True, final_sigmas_type="sigma_min", **SCALED)
    add("first-order", DPM, solver_order=1, **SCALED)
    add("heun", DPM, solver_type="heun", **SCALED)
    add("heun-velocity-karras", DPM, solver_type="heun", use_karras_sigmas=True, **SCALED, **VELOCITY)
    for final in ["zero", "sigma_min"]:
        for lower in [True, False]:
            fields = {"final_sigmas_type": final, "lower_order_final": lower}
            add(f"final-{final}-lower-{lower}", DPM, [1, 2, 5, 14, 15], **fields, **SCALED)
    add("euler-at-final", DPM, final_sigmas_type="sigma_min", euler_at_final=True, **SCALED)

    # As the files of Stable Diffusion 1 and SDXL are written: fields of several classes, some not there at all.
    one = {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1, "clip_sample": False, **SCALED}
    for kind in [DDIM, EULER, DPM]:
        config = {"_class_name": PNDM, **one, "override": kind}
        cases.append({"name": f"override.{SHORT[kind]}", "config": config, "steps": [2, 5]})
    config = {"_class_name": EULER, **one, **VELOCITY, "timestep_spacing": "leading"}
    for kind in [PNDM, DDIM, DPM]:
        case = {"name": f"override.euler-{SHORT[kind]}", "config": {**config, "override": kind}, "steps": [2, 5]}
        cases.append(case)
    return cases


def scheduler(config: dict):
    own = {name: value for name, value in config.items() if name != "override"}
    made = getattr(diffusers, config["_class_name"]).from_config(own)
    return getattr(diffusers, config["override"]).from_config(made.config) if "override" in config else made


def network(sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    return 0.7 * sample + 0.1 * torch.sin(3 * sample + timestep.to(torch.float32) / 100)


def run(made, steps: int, latents: torch.Tensor) -> tuple[list[float], list[np.ndarray], float]:
    made.set_timesteps(steps)
    if hasattr(made, "set_begin_index"):
        made.set_begin_index(0)
    sigma = torch.as_tensor(made.init_noise_sigma, dtype=torch.float32)
    latents, after = latents * sigma, []
    # With some step counts, as 61, trailing spacing gives a timestep too many, -1, which wraps around in the tables.
    timesteps = [timestep for timestep in made.timesteps if timestep >= 0]
    for timestep in timesteps:
        output = network(made.scale_model_input(latents, timestep), timestep)
        latents = made.step(output, timestep, latents).prev_sample
        after.append(latents.numpy())
    return [float(timestep) for timestep in timesteps], after, float(sigma)


def main() -> None:
    start = torch.from_numpy(np.random.default_rng(7).standard_normal((1, 4, 2, 2), np.float32))
    cases, tensors = listed(), {"latents": start.numpy()}
    for case in cases:
        runs = [run(scheduler(case["config"]), steps, start) for steps in case["steps"]]
        for name, index, dtype in [("timesteps", 0, np.float32), ("latents", 1, np.float32)]:
            tensors[f"{case['name']}.{name}"] = np.array(sum((made[index] for made in runs), []), dtype)
        tensors[f"{case['name']}.sigma"] = np.array([made[2] for made in runs], np.float32)
    if "--check" in sys.argv:
        stored = load_file(FOLDER / "cases.safetensors")
        for name, tensor in tensors.items():
            if stored[name].shape != tensor.shape:
                print(name, "has another shape")
            elif not np.array_equal(stored[name], tensor):
                print(name, "differs by", np.abs(stored[name] - tensor).max(), "of", np.abs(tensor).max())
        return
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())
    save_file(tensors, FOLDER / "cases.safetensors")
    lines = ",\n".join(json.dumps(case) for case in cases)
    (FOLDER / "cases.json").write_text(f"[\n{lines}\n]\n")


warnings.simplefilter("ignore")
diffusers.logging.set_verbosity_error()
main()
