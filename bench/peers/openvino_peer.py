"""One side of bench/run.mjs: OpenVINO runs the U-Net of a guided sampling step, and the VAE's decoder, in bfloat16.

    python openvino_peer.py MODEL [--convert]
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import openvino as ov

folder = Path(sys.argv[1])
files = {part: folder / "openvino" / f"{part}.xml" for part in ("unet", "decoder")}


def convert() -> None:
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    class Plain(torch.nn.Module):
        def __init__(self, function, owner):
            super().__init__()
            self.function, self.owner = function, owner

        def forward(self, *inputs):
            return self.function(*inputs)

    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet").eval()
    size, width = unet.config.sample_size, unet.config.cross_attention_dim
    inputs = torch.randn(2, 4, size, size), torch.tensor([500.0, 500.0]), torch.randn(2, 77, width)
    with torch.no_grad():
        module = Plain(lambda x, t, s: unet(x, t, s, return_dict=False)[0], unet)
        ov.save_model(ov.convert_model(module, example_input=inputs), files["unet"], compress_to_fp16=True)
    del unet, module
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae").eval()
    with torch.no_grad():
        module = Plain(lambda z: vae.decode(z, return_dict=False)[0], vae)
        model = ov.convert_model(module, example_input=torch.randn(1, 4, size, size))
        ov.save_model(model, files["decoder"], compress_to_fp16=True)


def peak() -> float:
    status = Path("/proc/self/status").read_text()
    kilobytes = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    Path("/proc/self/clear_refs").write_text("5")
    return kilobytes / 2**20


def main() -> None:
    core = ov.Core()
    options = {"INFERENCE_PRECISION_HINT": "bf16", "PERFORMANCE_HINT": "LATENCY"}
    since = time.perf_counter()
    compiled = {part: core.compile_model(path, "CPU", options) for part, path in files.items()}
    print(json.dumps({"open": time.perf_counter() - since, "peak": peak()}), flush=True)
    size = 64
    generator = np.random.default_rng(0)
    values = lambda *shape: generator.standard_normal(shape, dtype=np.float32)

    def timed(part: str, inputs) -> tuple[float, float]:
        since = time.perf_counter(), time.process_time()
        compiled[part](inputs)
        return time.perf_counter() - since[0], time.process_time() - since[1]

    for line in sys.stdin:
        command = json.loads(line)
        peak()
        inputs = [values(2, 4, size, size), np.array([500.0, 500.0], np.float32), values(2, 77, 768)]
        steps = [timed("unet", inputs) for _ in range(command["steps"] + 1)][1:]
        parts = {"step": steps, "decode": [timed("decoder", [values(1, 4, size, size)])]}
        times = {part: [clock for clock, _ in pairs] for part, pairs in parts.items()}
        cpu = {part: [work for _, work in pairs] for part, pairs in parts.items()}
        print(json.dumps({"times": times, "cpu": cpu, "peak": peak()}), flush=True)


if "--convert" in sys.argv:
    convert()
else:
    main()
