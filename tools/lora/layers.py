"""Low-rank layers beside a network's own, and their file in kohya's naming."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn


class LowRank(nn.Module):
    """A linear layer or convolution, plus alpha / rank * up(down(x))."""

    def __init__(self, base: nn.Linear | nn.Conv2d, rank: int, alpha: float):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.alpha, self.strength = alpha, 1.0
        if isinstance(base, nn.Conv2d):
            shape = dict(kernel_size=base.kernel_size, stride=base.stride, padding=base.padding)
            self.down = nn.Conv2d(base.in_channels, rank, bias=False, **shape)
            self.up = nn.Conv2d(rank, base.out_channels, 1, bias=False)
        else:
            self.down = nn.Linear(base.in_features, rank, bias=False)
            self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.normal_(self.down.weight, std=1 / self.down.weight[0].numel() ** 0.5)
        nn.init.zeros_(self.up.weight)  # begins as the network is
        self.rank = rank

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.strength * self.alpha / self.rank * self.up(self.down(x))


def add_low_rank(network: nn.Module, ends: tuple[str, ...], rank: int, alpha: float) -> dict[str, LowRank]:
    """Puts such a layer in the place of every one whose name ends so; returns them by name."""
    found = {
        name: module
        for name, module in network.named_modules()
        if name.endswith(ends) and isinstance(module, (nn.Linear, nn.Conv2d))
    }
    layers = {}
    for name, module in found.items():
        parent, _, own = name.rpartition('.')
        layers[name] = LowRank(module, rank, alpha)
        setattr(network.get_submodule(parent), own, layers[name])
    return layers


def save_kohya(layers: dict[str, LowRank], path: Path, metadata: dict[str, str]) -> None:
    state = {}
    for name, layer in layers.items():
        module = 'lora_unet_' + name.replace('.', '_')
        state[f'{module}.lora_down.weight'] = layer.down.weight.detach().half().contiguous()
        state[f'{module}.lora_up.weight'] = layer.up.weight.detach().half().contiguous()
        state[f'{module}.alpha'] = torch.tensor(layer.alpha).half()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, metadata)
