"""Trajectories of diffusers' schedulers, built from models' files by `from_config`, also of another class than the file's.

    python trajectories.py --models FOLDER --out FOLDER

writes one file a case: `sample`, `outputs` (of the model, one a call), `timesteps`, `inputs` (what the model is given)
and `samples` (after each call); the metadata `case` is JSON with the scheduler's file, the name and the steps.
"""

import argparse
import inspect
import json
import tempfile
from pathlib import Path

import diffusers
import torch
from models import MINI
from safetensors.torch import save_file

# The package's scheduler names; None is the folder's own.
SCHEDULERS = {
    "ddim": ("DDIMScheduler", {}),
    "pndm": ("PNDMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "dpm++2m": ("DPMSolverMultistepScheduler", {}),
    "dpm++2m-karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}

NOISE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
SEED = 12
STEPS = (6, 11)

# As published with Stable Diffusion 1.5: an old file with keys of other classes and without many of its own.
PNDM = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    **NOISE,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}


def saved(class_name: str, config: dict, **options) -> dict:
    """The file that diffusers writes for a scheduler made from another's: with all keys, and notes on defaults."""
    scheduler = getattr(diffusers, class_name).from_config(config, **options)
    with tempfile.TemporaryDirectory() as folder:
        scheduler.save_config(folder)
        return json.loads((Path(folder) / "scheduler_config.json").read_text())


FILES = {
    "mini": json.loads((MINI / "scheduler" / "scheduler_config.json").read_text()),
    "sd15": PNDM,
    # As published with Stable Diffusion 2.1.
    "sd21": {**PNDM, "_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
    "bare ddim": {"_class_name": "DDIMScheduler"},
    "bare pndm": {"_class_name": "PNDMScheduler"},
    "zero terminal snr": {
        "_class_name": "DDIMScheduler",
        **NOISE,
        "clip_sample": False,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "set_alpha_to_one": False,
        "timestep_spacing": "trailing",
    },
    "saved euler": saved("EulerDiscreteScheduler", PNDM),
    "saved euler-a": saved("EulerAncestralDiscreteScheduler", PNDM, timestep_spacing="trailing"),
    "saved dpm++2m": saved("DPMSolverMultistepScheduler", PNDM, use_karras_sigmas=True),
    "saved unipc": saved("UniPCMultistepScheduler", PNDM, solver_order=2),
    "saved ddim": saved("DDIMScheduler", PNDM),
}


def make(config: dict, name: str | None):
    """A scheduler of a model's file; of the file's own class without a name."""
    if name is None:
        return getattr(diffusers, config["_class_name"]).from_config(config)
    class_name, options = SCHEDULERS[name]
    return getattr(diffusers, class_name).from_config(config, **options)


def trajectory(scheduler, steps: int, begin: int = 0) -> dict[str, torch.Tensor]:
    """With `begin`, as many calls are left out, as by the pipelines that begin from an image."""
    generator = torch.Generator().manual_seed(steps)
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps
    calls = len(timesteps)
    if begin and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    first = torch.randn(2, 4, 4, 3, generator=generator)
    outputs = torch.randn(calls, *first.shape, generator=generator)
    # One generator a picture, as the pipeline is given them.
    noise = [torch.Generator().manual_seed(SEED + index) for index in range(len(first))]
    more = {"generator": noise} if "generator" in inspect.signature(scheduler.step).parameters else {}
    sample = first * scheduler.init_noise_sigma
    start = {}
    if begin:
        image = torch.randn(first.shape, generator=generator)
        sample = scheduler.add_noise(image, first, timesteps[begin : begin + 1].repeat(len(first)))
        start = {"image": image, "begin": torch.tensor([begin]).float()}
    inputs, samples = [], []
    for output, timestep in zip(outputs[begin:], timesteps[begin:], strict=True):
        inputs.append(scheduler.scale_model_input(sample, timestep))
        sample = scheduler.step(output, timestep, sample, **more).prev_sample
        samples.append(sample)
    return {
        **start,
        "sample": first,
        "outputs": outputs,
        "seed": torch.tensor([SEED, SEED + 1]).float(),
        "timesteps": timesteps.float(),
        "inputs": torch.stack(inputs),
        "samples": torch.stack(samples),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, help="not used: a trajectory needs no model")
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    index = 0
    for file, config in FILES.items():
        for name in (None, *SCHEDULERS):
            if name == "pndm" and config.get("rescale_betas_zero_snr"):
                continue  # PNDM divides by the signal that is left, which is none
            for steps in STEPS:
                case = {"file": file, "config": config, "scheduler": name, "steps": steps}
                tensors = {key: tensor.contiguous() for key, tensor in trajectory(make(config, name), steps).items()}
                save_file(tensors, out / f"{index:03}.safetensors", {"case": json.dumps(case)})
                index += 1
    # Left out: the first calls.
    for file in ("sd15", "bare pndm", "sd21", "saved dpm++2m"):
        for name in SCHEDULERS:
            for begin in (1, 2, 7):
                case = {"file": file, "config": FILES[file], "scheduler": name, "steps": 11, "begin": begin}
                made = trajectory(make(FILES[file], name), 11, begin)
                tensors = {key: tensor.contiguous() for key, tensor in made.items()}
                save_file(tensors, out / f"{index:03}.safetensors", {"case": json.dumps(case)})
                index += 1


if __name__ == "__main__":
    main()
