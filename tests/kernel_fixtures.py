"""Fixtures of tests that hold for every set of instructions and any number of threads; conftest files import them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from eztinker.model import device
from eztinker.model.cpu_kernels import building, cpu_kernels
from tests.instruction_sets import NAMES, USABLE


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Number of threads of torch and the kernels."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(params=USABLE, ids=NAMES)
def kernel_dtype(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """The dtype of a decoder whose kernels are the ones named; those for other dtypes are the fastest."""
    dtype, instruction_set = request.param
    kernels = building.kernels_in(instruction_set, dtype)
    monkeypatch.setattr(device, "cpu_kernels", lambda asked: kernels if asked == dtype else cpu_kernels(asked))
    return dtype
