"""What a machine says about the kernels it has and those it missed."""

from __future__ import annotations

import pytest
import torch

from eztinker.model.device import kernels_missed, kernels_text
from tests.oracles import CPU


def test_a_model_names_the_instructions_of_its_numbers_and_of_its_logits(monkeypatch: pytest.MonkeyPatch):
    names = {torch.float32: "AVX512", torch.bfloat16: "AMX"}
    monkeypatch.setattr("eztinker.model.device.kernels_name", names.get)
    assert kernels_text(torch.float32, CPU) == "AVX512"
    assert kernels_text(torch.bfloat16, CPU) == "AMX; for logits AVX512"
    assert kernels_text(torch.bfloat16, torch.device("cuda")) == "none: they are for CPUs, not for cuda"


def test_a_model_names_what_kept_it_from_faster_instructions(monkeypatch: pytest.MonkeyPatch):
    failures = {torch.float32: ("AVX512: no",), torch.bfloat16: ("AMX: no", "AVX512: no")}
    monkeypatch.setattr("eztinker.model.device.kernel_failures", failures.get)
    assert kernels_missed(torch.bfloat16, CPU) == ["AMX: no", "AVX512: no"]
    assert kernels_missed(torch.bfloat16, torch.device("cuda")) == []
