"""The written measuring nets, run by ONNX Runtime: what is measured is measured with the files that are shipped."""

import json
import math
from pathlib import Path

import numpy as np
import torch


class Exported:
    """A written ONNX file, called like the net: pixels in 0..1, (batch, 3, 128, 128), to its first output."""

    def __init__(self, path: Path, threads: int = 1):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])

    def run(self, pixels: torch.Tensor, output: str | None = None) -> torch.Tensor:
        names = [output] if output else None
        return torch.from_numpy(self.session.run(names, {'pixels': pixels.contiguous().numpy()})[0])

    __call__ = run


def pixels_of(pictures: np.ndarray) -> torch.Tensor:
    """Bytes (batch, 128, 128, 3) as the nets take them."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255


class Judge:
    """The classifier with its card: what it says of pictures, by the names of fields and values."""

    def __init__(self, folder: Path, threads: int = 1):
        self.card = json.loads((folder / 'classifier.json').read_text())
        self.net = Exported(folder / self.card['net'], threads)

    def said(self, pictures: np.ndarray) -> list[dict[str, str]]:
        rows = [{} for _ in pictures]
        for start in range(0, len(pictures), 50):
            answers = self.net(pixels_of(pictures[start : start + 50]))
            fields = self.card['fields']
            for field, part in zip(fields, answers.split([len(f['values']) for f in fields], 1)):
                for row, k in enumerate(part.argmax(1).tolist(), start):
                    rows[row][field['name']] = field['values'][k]
        return rows

    def features(self, pictures: np.ndarray) -> np.ndarray:
        parts = [self.net.run(pixels_of(pictures[i : i + 50]), 'features') for i in range(0, len(pictures), 50)]
        return torch.cat(parts).double().numpy()


def interval(hits: int, count: int) -> tuple[float, float]:
    """Wilson's interval for a share, 95 %."""
    z, p = 1.96, hits / count
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return middle - half, middle + half


def share(hits: list[bool]) -> dict:
    low, high = interval(sum(hits), len(hits))
    return {'share': round(sum(hits) / len(hits), 4), 'low': round(low, 4), 'high': round(high, 4), 'count': len(hits)}
