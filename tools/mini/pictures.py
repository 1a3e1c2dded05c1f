"""Reads what tools/world wrote: shards of raw pictures with one JSON description each."""

import json
from pathlib import Path

import numpy as np

SIDE = 128


class Pictures:
    """Several shards seen as one array of N x 128 x 128 x 3 bytes; nothing is read before it is asked for."""

    def __init__(self, shards: list[np.ndarray]):
        self.shards = shards
        self.starts = np.cumsum([0] + [len(s) for s in shards])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, key):
        if isinstance(key, tuple):
            return self[int(key[0])][key[1:]]
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step != 1:
                raise ValueError('only contiguous slices')
            parts = [
                s[max(0, start - a) : max(0, stop - a)]
                for a, s in zip(self.starts, self.shards)
                if a < stop and a + len(s) > start
            ]
            return Pictures(parts) if len(parts) != 1 else Pictures(parts[:1])
        shard = int(np.searchsorted(self.starts, key, 'right')) - 1
        return self.shards[shard][key - self.starts[shard]]

    def __array__(self, dtype=None, copy=None):
        return np.concatenate(self.shards).astype(dtype or np.uint8)


def shard_paths(folders: list[Path]) -> list[Path]:
    return sorted(p for folder in folders for p in folder.glob('*.bin'))


def load_pictures(folders: list[Path]) -> Pictures:
    return Pictures([np.memmap(p, np.uint8, 'r').reshape(-1, SIDE, SIDE, 3) for p in shard_paths(folders)])


def load_records(folders: list[Path]) -> list[dict]:
    """The descriptions, in the order of the pictures."""
    records = []
    for path in shard_paths(folders):
        with open(path.with_suffix('.jsonl')) as file:
            records += [json.loads(line) for line in file]
    return records
