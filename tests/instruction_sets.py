"""The kernels of every dtype in every set of instructions that this processor has, not the fastest alone."""

from __future__ import annotations

import shutil

import torch

from eztinker.model.cpu_kernels import building
from eztinker.model.cpu_kernels.compiling import INSTRUCTION_SETS, InstructionSet

ALL_SETS = [(getattr(torch, dtype), each) for dtype, sets in INSTRUCTION_SETS.items() for each in sets]
has_compiler = shutil.which("cc") is not None
USABLE = [(dtype, each) for dtype, each in ALL_SETS if has_compiler and each in building.usable_sets(dtype)]


def name_of(dtype: torch.dtype, instruction_set: InstructionSet) -> str:
    return f"{str(dtype).removeprefix('torch.')}-{instruction_set.name}"


NAMES = [name_of(*each) for each in USABLE]
