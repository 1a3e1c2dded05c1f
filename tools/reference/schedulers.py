"""Trajectories of diffusers' schedulers, for the tests of cpp/sample.

    python tools/reference/schedulers.py OUT.txt

Needs torch, diffusers and scipy (for the "beta" sigmas). All cases share one first sample and one list of random
model outputs, so that a case is: a scheduler's spec, and the samples that come of it.

The file is lines of words:

    schedulers 1
    shape 2 4 2 2
    outputs N                 then N lines, the model's output at call 0, 1, ...
    case NAME
    set FIELD VALUE           every field of SchedulerSpec (cpp/engine.h), those of its noise as noise.FIELD;
                              booleans as true or false, lists as words
    steps N
    seeds 11 12               one an image
    init_noise_sigma X
    timesteps X ...           one a call
    input_scales X ...        what scale_model_input multiplies by, one a call
    samples N                 then N lines: the first sample, then the one after each call
    end
"""

import argparse
import inspect
import itertools
import pathlib
import warnings

import diffusers
import numpy as np
import torch

SHAPE = (2, 4, 2, 2)
SEEDS = (11, 12)
CALLS = 130

CLASSES = {
    "ddim": diffusers.DDIMScheduler,
    "pndm": diffusers.PNDMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "euler-a": diffusers.EulerAncestralDiscreteScheduler,
    "dpm++2m": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
}

# SchedulerSpec's fields with the engine's defaults, by diffusers' names; what a class does not have keeps these.
NOISE = {
    "num_train_timesteps": ("train_timesteps", 1000),
    "beta_start": ("beta_start", 0.00085),
    "beta_end": ("beta_end", 0.012),
    "beta_schedule": ("beta_schedule", "scaled_linear"),
    "trained_betas": ("trained_betas", None),
    "rescale_betas_zero_snr": ("zero_terminal_snr", False),
    "prediction_type": ("prediction_type", "epsilon"),
}
FIELDS = {
    "timestep_spacing": "leading",
    "steps_offset": 0,
    "set_alpha_to_one": True,
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
    "skip_prk_steps": False,
    "interpolation_type": "linear",
    "final_sigmas_type": "zero",
    "timestep_type": "discrete",
    "sigma_min": -1.0,
    "sigma_max": -1.0,
    "solver_order": 2,
    "algorithm_type": "dpmsolver++",
    "solver_type": "midpoint",
    "lower_order_final": True,
    "euler_at_final": False,
    "lambda_min_clipped": -1e30,
    "predict_x0": True,
    "disable_corrector": [],
}


def word(value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return " ".join(word(v) for v in value)
    return repr(value) if isinstance(value, float) else str(value)


def row(values) -> str:
    return " ".join(f"{v:.9g}" for v in torch.as_tensor(values).flatten().tolist())


def write_spec(out, kind: str, scheduler) -> None:
    config = scheduler.config
    print("set kind", kind, file=out)
    for theirs, (ours, default) in NOISE.items():
        value = config.get(theirs, default)
        print(f"set noise.{ours}", word([] if value is None else value), file=out)
    for name, default in FIELDS.items():
        value = config.get(name, default)
        if value is None:
            value = default
        if name == "lambda_min_clipped":
            value = max(value, default)
        print("set", name, word(type(default)(value)), file=out)
    sigmas = [s for s in ("karras", "exponential", "beta") if config.get(f"use_{s}_sigmas", False)]
    print("set sigmas", sigmas[0] if sigmas else "default", file=out)


def write_case(out, name: str, kind: str, steps: int, options: dict, first, outputs) -> None:
    cls = CLASSES[kind]
    known = inspect.signature(cls.__init__).parameters
    defaults = {theirs: default for theirs, (_, default) in NOISE.items() if theirs in known}
    assert all(option in known for option in options), (name, options)
    scheduler = cls(**{**defaults, **options})
    scheduler.set_timesteps(steps)
    print("case", name, file=out)
    write_spec(out, kind, scheduler)

    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    scheduler_noise = {"generator": generators} if takes_generator else {}
    sample = first * scheduler.init_noise_sigma
    samples, scales = [sample], []
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    for i, timestep in enumerate(scheduler.timesteps):
        scales.append(scheduler.scale_model_input(torch.ones(()), timestep).item())
        sample = scheduler.step(outputs[i], timestep, sample, **scheduler_noise).prev_sample
        samples.append(sample)
    assert all(s.isfinite().all() for s in samples), name
    print("steps", steps, file=out)
    print("seeds", *SEEDS, file=out)
    print("init_noise_sigma", row(scheduler.init_noise_sigma), file=out)
    print("timesteps", row(scheduler.timesteps), file=out)
    print("input_scales", row(torch.tensor(scales)), file=out)
    print("samples", len(samples), file=out)
    for sample in samples:
        print(row(sample), file=out)
    print("end", file=out)


def cases():
    """Yields (kind, steps, options)."""
    spacings = ("leading", "trailing", "linspace")
    predictions = ("epsilon", "v_prediction", "sample")
    snr = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    short = {"num_train_timesteps": 200, "beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}
    given = {"num_train_timesteps": 50, "trained_betas": np.linspace(0.001, 0.3, 50).tolist()}

    # Every class with every spacing and every prediction that it knows.
    for kind, spacing, prediction in itertools.product(CLASSES, spacings, predictions):
        if prediction == "sample" and kind in ("pndm", "euler-a"):
            continue
        yield kind, 10, {"timestep_spacing": spacing, "prediction_type": prediction}
    # How many steps, offsets, and noise of other models.
    for kind in CLASSES:
        yield kind, 25, {"timestep_spacing": "leading", "steps_offset": 1}
        yield kind, 50, {}
        yield kind, 7, {"timestep_spacing": "trailing"}
        yield kind, 20, {**short, "timestep_spacing": "linspace"}
        yield kind, 12, {**given, "timestep_spacing": "leading"}
        yield kind, 10, {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "leading"}
        if kind != "pndm":
            for spacing in spacings:
                yield kind, 10, {**snr, "timestep_spacing": spacing}
            yield kind, 1, {"timestep_spacing": "trailing"}
        yield kind, 4, {}

    for steps in (1, 2, 3, 4, 20):
        yield "pndm", steps, {"skip_prk_steps": True, "steps_offset": 1}
    for prediction, spacing in itertools.product(predictions[:2], spacings):
        yield "pndm", 8, {"skip_prk_steps": True, "prediction_type": prediction, "timestep_spacing": spacing}
    yield "pndm", 9, {"skip_prk_steps": True, "set_alpha_to_one": True}
    yield "pndm", 100, {}

    yield "ddim", 10, {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    yield "ddim", 10, {"clip_sample": True, "clip_sample_range": 2.5}
    yield "ddim", 10, {"thresholding": True, "sample_max_value": 3.0, "dynamic_thresholding_ratio": 0.9}
    yield "ddim", 100, {"clip_sample": False}

    spreads = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
    for kind, spread, final in itertools.product(("euler", "dpm++2m", "unipc"), spreads, ("zero", "sigma_min")):
        yield kind, 12, {spread: True, "final_sigmas_type": final}
    for spread in spreads:
        for kind, final in itertools.product(("euler", "unipc"), ("zero", "sigma_min")):
            yield kind, 8, {spread: True, "sigma_min": 0.1, "sigma_max": 10.0, "final_sigmas_type": final}
        yield "dpm++2m", 20, {spread: True, "beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}
    yield "euler", 10, {"interpolation_type": "log_linear"}
    yield "euler", 10, {"interpolation_type": "log_linear", "use_karras_sigmas": True}
    yield "euler", 10, {"timestep_type": "continuous", "prediction_type": "v_prediction"}
    yield "euler", 10, {"timestep_type": "continuous", "prediction_type": "v_prediction", "use_karras_sigmas": True,
                        "sigma_min": 0.002, "sigma_max": 700.0}  # fmt: skip
    yield "euler", 10, {"final_sigmas_type": "sigma_min"}
    yield "euler", 100, {}

    for algorithm, order, solver in itertools.product(
        ("dpmsolver++", "sde-dpmsolver++", "dpmsolver"), (1, 2, 3), ("midpoint", "heun")
    ):
        final = "sigma_min" if algorithm == "dpmsolver" else "zero"
        yield "dpm++2m", 16, {"algorithm_type": algorithm, "solver_order": order, "solver_type": solver,
                              "final_sigmas_type": final}  # fmt: skip
    for prediction in predictions:
        yield "dpm++2m", 9, {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min",
                             "prediction_type": prediction}  # fmt: skip
        yield "dpm++2m", 9, {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min",
                             "prediction_type": prediction, "thresholding": True, "sample_max_value": 2.0}  # fmt: skip
    yield "dpm++2m", 16, {"euler_at_final": True, "final_sigmas_type": "sigma_min"}
    yield "dpm++2m", 10, {"lower_order_final": False, "solver_order": 3, "final_sigmas_type": "sigma_min"}
    yield "dpm++2m", 10, {"solver_order": 3}
    yield "dpm++2m", 10, {"thresholding": True, "sample_max_value": 3.0, "dynamic_thresholding_ratio": 0.9}
    yield "dpm++2m", 10, {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}
    yield "dpm++2m", 10, {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1,
                          "timestep_spacing": "trailing"}  # fmt: skip
    yield "dpm++2m", 10, {"solver_type": "bh2"}
    yield "dpm++2m", 100, {"use_karras_sigmas": True}

    for solver, order, x0 in itertools.product(("bh1", "bh2"), (1, 2, 3), (True, False)):
        yield "unipc", 16, {"solver_type": solver, "solver_order": order, "predict_x0": x0,
                            "final_sigmas_type": "sigma_min"}  # fmt: skip
    for prediction in predictions:
        yield "unipc", 9, {"predict_x0": False, "final_sigmas_type": "sigma_min", "prediction_type": prediction}
    yield "unipc", 10, {"solver_order": 3, "disable_corrector": [0, 1, 5]}
    yield "unipc", 10, {"solver_order": 3, "lower_order_final": False, "final_sigmas_type": "sigma_min"}
    yield "unipc", 10, {"thresholding": True, "sample_max_value": 3.0, "dynamic_thresholding_ratio": 0.9}
    yield "unipc", 100, {"use_karras_sigmas": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    path = pathlib.Path(parser.parse_args().out)
    path.parent.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore", category=FutureWarning)
    diffusers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(SHAPE, generator=generator)
    outputs = torch.randn((CALLS, *SHAPE), generator=generator)
    with path.open("w", encoding="ascii") as out:
        print("schedulers 1", file=out)
        print("shape", *SHAPE, file=out)
        print("outputs", CALLS, file=out)
        for output in outputs:
            print(row(output), file=out)
        count = 0
        for count, (kind, steps, options) in enumerate(cases(), 1):
            details = [f"{k}={'...' if k == 'trained_betas' else word(v).replace(' ', ',')}" for k, v in options.items()]
            write_case(out, ",".join([kind, str(steps), *details]), kind, steps, options, first, outputs)
    print(f"{count} trajectories in {path}")


if __name__ == "__main__":
    main()
