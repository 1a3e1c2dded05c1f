"""Writes test/model/goldens/scheduler_configs.json: what diffusers' from_config makes of several files, for every class.

    python tools/reference/scheduler_configs.py && npx biome check --write test/model/goldens
"""

import inspect
import json
import math
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import diffusers

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "test" / "model" / "goldens" / "scheduler_configs.json"

CLASSES = {
    "ddim": "DDIMScheduler",
    "pndm": "PNDMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "dpm++2m": "DPMSolverMultistepScheduler",
    "dpm++2m-karras": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
}

# Stable Diffusion's noise, as its files write it.
NOISE = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")

FILES = {
    "mini": json.loads((ROOT / "models" / "mini" / "scheduler" / "scheduler_config.json").read_text()),
    # The keys that 1.x's files have: PNDM's, with a key of DDIM's.
    "sd1-pndm": dict(
        _class_name="PNDMScheduler", _diffusers_version="0.6.0", **NOISE, clip_sample=False, set_alpha_to_one=False,
        skip_prk_steps=True, steps_offset=1, trained_betas=None,
    ),
    # Those of 2.x's 768 px files.
    "sd2-ddim-v": dict(
        _class_name="DDIMScheduler", _diffusers_version="0.8.0", **NOISE, clip_sample=False, set_alpha_to_one=False,
        skip_prk_steps=True, steps_offset=1, trained_betas=None, prediction_type="v_prediction",
    ),
    "bare": dict(_class_name="DDIMScheduler"),
    "zero-snr": dict(
        _class_name="DDIMScheduler", **NOISE, rescale_betas_zero_snr=True, timestep_spacing="trailing",
        prediction_type="v_prediction", clip_sample=True, clip_sample_range=2.0, thresholding=True,
        dynamic_thresholding_ratio=0.9, sample_max_value=1.5,
    ),
    "euler-karras": dict(
        _class_name="EulerDiscreteScheduler", **NOISE, use_karras_sigmas=True, sigma_min=0.03, sigma_max=14.5,
        interpolation_type="linear", timestep_spacing="leading", steps_offset=1, final_sigmas_type="sigma_min",
    ),
    "euler-continuous": dict(
        _class_name="EulerDiscreteScheduler", **NOISE, timestep_type="continuous", interpolation_type="log_linear",
        use_exponential_sigmas=True,
    ),
    "dpm": dict(
        _class_name="DPMSolverMultistepScheduler", **NOISE, algorithm_type="dpmsolver++", solver_order=3,
        solver_type="heun", lower_order_final=False, euler_at_final=True, lambda_min_clipped=-5.1,
        timestep_spacing="trailing",
    ),
    "dpm-sde": dict(
        _class_name="DPMSolverMultistepScheduler", **NOISE, algorithm_type="sde-dpmsolver++", use_beta_sigmas=True,
        lambda_min_clipped=-math.inf, _use_default_values=["lambda_min_clipped", "solver_order"], solver_order=2,
    ),
    "unipc": dict(
        _class_name="UniPCMultistepScheduler", **NOISE, solver_order=3, solver_type="bh1", predict_x0=False,
        disable_corrector=[0, 1], steps_offset=1, sigma_min=0.05, use_karras_sigmas=True,
    ),
    "deis": dict(_class_name="DEISMultistepScheduler", **NOISE, algorithm_type="deis", solver_type="logrho", final_sigmas_type="sigma_min"),
    "betas": dict(_class_name="PNDMScheduler", num_train_timesteps=4, trained_betas=[0.1, 0.2, 0.3, 0.4]),
}


def resolve(name, config):
    options = {}
    if name == "dpm++2m-karras":
        # Asked for by name: it goes before whatever sigmas the file has.
        options = dict(use_karras_sigmas=True)
        config = {k: v for k, v in config.items() if k not in ("use_exponential_sigmas", "use_beta_sigmas")}
    cls = getattr(diffusers, CLASSES[name])
    # Only the resolution is wanted, not the quantiles of a beta distribution.
    sys.modules[cls.__module__].is_scipy_available = lambda: True
    resolved = cls.from_config(config, **options).config
    # Keys of other classes stay in the config unread, but for these two, which the sigmas' conversion looks for.
    known = {*inspect.signature(cls.__init__).parameters, "sigma_min", "sigma_max"}
    return {k: v for k, v in sorted(resolved.items()) if k in known}


def main():
    cases = {}
    for file, config in FILES.items():
        cases[file] = {"config": config, "resolved": {name: resolve(name, dict(config)) for name in CLASSES}}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"diffusers": diffusers.__version__, "cases": cases}, indent=2)
    # JSON has no word for it; a number beyond the largest is read as infinite.
    OUT.write_text(text.replace("-Infinity", "-1e999") + "\n")


if __name__ == "__main__":
    main()
