"""A diffusers folder as a checkpoint of a single file, in float16 and the names of Stable Diffusion's own program.

    python single_file.py --folder FOLDER --out FILE
"""

import argparse
from pathlib import Path

import torch
from models import load
from safetensors.torch import save_file
from single_files import ldm_state


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--folder", type=Path, required=True)
    arguments.add_argument("--out", type=Path, required=True)
    a = arguments.parse_args()
    state = ldm_state(load(a.folder, torch.float16), packed=False)
    save_file({name: value.contiguous() for name, value in state.items()}, a.out)


if __name__ == "__main__":
    main()
