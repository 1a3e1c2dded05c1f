"""Textual Inversion files as other programs write them, and torch.save()'s archives, for test/embedding and test/pickle.

    python tools/reference/embeddings.py FOLDER

Needs torch and safetensors. Every vector is NUMBER(file, row) + column / 64, so a test can say what must come back.
"""

import argparse
import collections
import pathlib

import torch
from safetensors.torch import save_file

WIDTH, WIDTH_G = 6, 10


def rows(start, count, width=WIDTH):
    return torch.arange(start, start + count, dtype=torch.float32)[:, None] + torch.arange(width) / 64


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)

    # diffusers: {token: [n, d]} or {token: [d]}
    save_file({"<cat-toy>": rows(1, 1)[0]}, folder / "diffusers_one.safetensors")
    save_file({"<cat-toy>": rows(2, 3).half()}, folder / "diffusers_three.safetensors", metadata={"format": "pt"})
    torch.save({"<cat-toy>": rows(3, 1)[0]}, folder / "diffusers.bin")

    # AUTOMATIC1111
    a1111 = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": torch.nn.Parameter(rows(4, 2))},
        "name": "my-cat",
        "step": 999,
        "sd_checkpoint": "cc6cb27103",
        "sd_checkpoint_name": "v1-5-pruned-emaonly",
    }
    torch.save(a1111, folder / "a1111.pt")
    # The first Textual Inversion code kept the parameters in a module.
    parameters = torch.nn.ParameterDict({"*": torch.nn.Parameter(rows(5, 1))})
    torch.save({"string_to_token": {"*": torch.tensor(265)}, "string_to_param": parameters}, folder / "first.pt")

    # kohya
    save_file({"emb_params": rows(2, 2).bfloat16()}, folder / "kohya.safetensors")
    # SDXL: kohya and AUTOMATIC1111, and OneTrainer (its own spelling)
    save_file({"clip_l": rows(7, 2), "clip_g": rows(8, 2, WIDTH_G)}, folder / "sdxl.safetensors")
    save_file({"emp_params": rows(9, 2)}, folder / "onetrainer.safetensors")
    save_file({"emp_params": rows(9, 2), "emp_params_out": rows(10, 2)}, folder / "onetrainer_out.safetensors")

    # Checkpoints
    state = collections.OrderedDict()
    state["a.weight"] = rows(1, 2)
    state["a.half"] = rows(2, 2).half()
    state["a.bfloat"] = rows(3, 1).bfloat16()
    state["a.double"] = rows(4, 1).double()
    state["a.count"] = torch.tensor(7)
    state["a.view"] = rows(5, 4)[1:3]
    state["a.empty"] = torch.zeros(0, 3)
    module = torch.nn.Linear(WIDTH, 2, bias=False)
    torch.save({"state_dict": state, "epoch": 3, "global_step": 1 << 40, "lr": 1e-4, "hparams": None}, folder / "ckpt.pt")
    torch.save(module.state_dict(), folder / "state.pt")
    torch.save({"a": rows(1, 3).T}, folder / "strided.pt")
    torch.save({"a": rows(1, 3)}, folder / "legacy.pt", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
