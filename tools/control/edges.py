"""Edges of pictures: what the ControlNet is given. White lines, one pixel wide, on black."""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

THRESHOLD = 0.075  # of a channel's slope: a fifth of the 0.375 that an upright edge from 0 to 1 has when it is smoothed


def edges(pictures: torch.Tensor) -> torch.Tensor:
    """[N, 3, H, W] in 0..1 -> [N, 1, H, W] of 0 and 1: where the steepest channel is steep, and steepest across the edge."""
    count, channels, height, width = pictures.shape
    smooth = torch.tensor([1.0, 2.0, 1.0]) / 4
    slope = torch.tensor([-1.0, 0.0, 1.0]) / 2
    x = F.pad(pictures.reshape(-1, 1, height, width), (2, 2, 2, 2), mode='replicate')
    x = F.conv2d(x, (smooth[:, None] * smooth).view(1, 1, 3, 3))
    across = F.conv2d(x, (smooth[:, None] * slope).view(1, 1, 3, 3)).view(count, channels, height, width)
    down = F.conv2d(x, (slope[:, None] * smooth).view(1, 1, 3, 3)).view(count, channels, height, width)
    steep, channel = torch.sqrt(across**2 + down**2).max(1, keepdim=True)
    across, down = across.gather(1, channel), down.gather(1, channel)
    # The direction across the edge, to the nearest of four.
    direction = torch.round(torch.atan2(down, across) * 4 / math.pi).long() % 4
    around = F.pad(steep, (1, 1, 1, 1))
    thin = torch.zeros_like(steep, dtype=torch.bool)
    for index, (dy, dx) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        one = around[:, :, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        other = around[:, :, 1 - dy : 1 - dy + height, 1 - dx : 1 - dx + width]
        # Of two that are equal one stays.
        thin |= (direction == index) & (steep > one) & (steep >= other)
    return (thin & (steep > THRESHOLD)).float()


def read(path: Path, side: int = 128) -> torch.Tensor:
    """[1, 3, side, side] in 0..1"""
    picture = Image.open(path).convert('RGB').resize((side, side), Image.LANCZOS)
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 255


def write(lines: torch.Tensor, path: Path) -> None:
    Image.fromarray((lines[0, 0] * 255).byte().numpy()).convert('RGB').save(path)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument('picture', type=Path)
    arguments.add_argument('out', type=Path)
    a = arguments.parse_args()
    write(edges(read(a.picture)), a.out)


if __name__ == '__main__':
    main()
