"""Writes the .pth files that the reader is tested with, in both forms of torch.save.

usage: make_pth.py FOLDER      needs torch; the committed files were written by torch 1.13 (the older form) and 2.15
"""
import argparse
import collections
import pathlib
import sys

import torch


def weights():
    """A state_dict of every type, with views: `column` and `turned` share the storage of `matrix`."""
    matrix = torch.arange(12, dtype=torch.float32).reshape(3, 4) / 4
    state = collections.OrderedDict(
        matrix=matrix, column=matrix[:, 1], turned=matrix.t(), scalar=torch.tensor(7, dtype=torch.int64),
        empty=torch.zeros(0, 3), double=torch.tensor([1 / 3], dtype=torch.float64),
        half=torch.tensor([0.5, -2.0], dtype=torch.float16), brain=torch.tensor([1.5, -3.0], dtype=torch.bfloat16),
        whole=torch.tensor([-5, 6], dtype=torch.int32), short=torch.tensor([-300], dtype=torch.int16),
        tiny=torch.tensor([-7], dtype=torch.int8), byte=torch.tensor([255], dtype=torch.uint8),
        truth=torch.tensor([True, False]))
    state._metadata = {"": {"version": 1}}  # as modules leave it: an attribute of the dictionary
    return state


def checkpoint():
    """Groups as training scripts write them, with an optimizer's state and an object of a foreign class."""
    model = {"w": torch.tensor([1.0, 2.0]), "b": torch.nn.Parameter(torch.tensor([3.0]))}
    ema = {"w": torch.tensor([4.0, 5.0])}
    opt = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    return {"model": model, "ema": ema, "opt": opt, "args": argparse.Namespace(seed=0, lr=1e-4), "epoch": 3,
            "big": 2**80, "names": {"a", "b"}, "nothing": None, "flags": (True, False, 1, 2, 3, 4)}


def main():
    folder = pathlib.Path(sys.argv[1])
    old = torch.__version__.startswith("1.")
    torch.save(weights(), folder / ("torch_legacy.pth" if old else "torch_zip.pth"),
               _use_new_zipfile_serialization=not old)
    torch.save(checkpoint(), folder / ("torch_groups_legacy.pth" if old else "torch_groups.pth"),
               _use_new_zipfile_serialization=not old)


main()
