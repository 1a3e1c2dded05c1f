"""Settings every stage of the trainer shares: fast arithmetic on a CPU, resumable states, averaged weights."""

import json
import os
import signal
import time
from pathlib import Path

import torch

# Denormal numbers slow CPU training down by 2-50 times; the flag must be set before OpenMP starts its threads.
torch.set_flush_denormal(True)

CHANNELS_LAST = torch.channels_last


def bf16():
    """Autocast to bfloat16: on CPUs with AMX or AVX512-BF16 the matrix units run only in this type."""
    return torch.autocast('cpu', torch.bfloat16)


def save_state(path: Path, **state) -> None:
    """Writes a training state so that an interruption never leaves a broken file behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix('.tmp')
    torch.save(state, temporary)
    os.replace(temporary, path)


def load_state(path: Path):
    """The state saved by save_state, or None at the first start."""
    return torch.load(path, map_location='cpu', weights_only=False) if path.exists() else None


class Stop:
    """Turns true when the process is asked to end, so that a stage can save its state first."""

    def __init__(self):
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, *_) -> None:
        self.asked = True

    def __bool__(self) -> bool:
        return self.asked


class Average:
    """Exponential moving average of a model's weights; the averaged model is the one that is shipped."""

    def __init__(self, model: torch.nn.Module, decay: float):
        self.decay = decay
        self.weights = [p.detach().clone() for p in model.parameters()]

    @torch.no_grad()
    def update(self, model: torch.nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (20 + step))
        torch._foreach_lerp_(self.weights, [p.detach() for p in model.parameters()], 1 - decay)

    @torch.no_grad()
    def copy_to(self, model: torch.nn.Module) -> None:
        for p, w in zip(model.parameters(), self.weights):
            p.copy_(w)


class Log:
    """One JSON line per report, for curves, and the same on the screen."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(path, 'a')
        self.started = time.time()

    def write(self, **values) -> None:
        values['seconds'] = round(time.time() - self.started, 1)
        line = json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in values.items()})
        self.file.write(line + '\n')
        self.file.flush()
        print(line, flush=True)
