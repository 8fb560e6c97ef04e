"""Which kernels compute on a device, and what is said about them."""

from __future__ import annotations

import pytest
import torch

from eztinker.model.device import kernels_text
from tests.oracles import CPU


def test_a_model_names_the_instructions_of_its_numbers_and_of_its_logits(monkeypatch: pytest.MonkeyPatch):
    names = {torch.float32: "AVX512", torch.bfloat16: "AMX"}
    monkeypatch.setattr("eztinker.model.device.kernels_name", names.get)
    assert kernels_text(torch.float32, CPU) == "AVX512"
    assert kernels_text(torch.bfloat16, CPU) == "AMX; for logits AVX512"
    assert kernels_text(torch.bfloat16, torch.device("cuda")) == "none: they are for CPUs, not for cuda"
