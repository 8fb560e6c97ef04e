"""The kernels of every dtype in every set of instructions that this processor has, not the fastest alone."""

from __future__ import annotations

import shutil

import torch

from eztinker.model.cpu_kernels import building

DTYPES = [torch.float32, torch.bfloat16]
ALL_SETS = [(dtype, each) for dtype in DTYPES for each in building.INSTRUCTION_SETS[dtype]]
has_compiler = shutil.which("cc") is not None
USABLE = [(dtype, each) for dtype, each in ALL_SETS if has_compiler and each in building.usable_sets(dtype)]


def name_of(dtype: torch.dtype, instruction_set: building.InstructionSet) -> str:
    return f"{str(dtype).removeprefix('torch.')}-{instruction_set.name}"


NAMES = [name_of(*each) for each in USABLE]
