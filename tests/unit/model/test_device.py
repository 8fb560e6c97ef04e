"""Devices, dtypes, threads and products: what a machine gets, and what is said about it."""

from __future__ import annotations

import pytest
import torch

from eztinker.errors import ConfigError
from eztinker.model import device
from eztinker.model.device import (
    choose_device,
    choose_dtype,
    fastest_matmul,
    fits_bfloat16,
    kernels_missed,
    kernels_text,
    set_up_cpu,
)
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


def test_a_device_that_the_machine_lacks_is_refused_with_those_it_has(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(ConfigError, match="'cuda' is not available on this machine; available: cpu"):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("present", "chosen"), [({"cuda", "mps"}, "cuda"), ({"mps"}, "mps"), (set(), "cpu")], ids=["both", "mps", "none"]
)
def test_auto_takes_the_fastest_device_there_is(monkeypatch: pytest.MonkeyPatch, present: set[str], chosen: str):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in present)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in present)
    assert choose_device("auto").type == chosen


def test_auto_is_float32_where_the_processor_only_emulates_bfloat16(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(device, "processor_flags", lambda: frozenset({"avx2", "fma"}))
    assert choose_dtype("auto", CPU) == torch.float32
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16  # whoever asks for it gets it


@pytest.mark.parametrize(("asked", "available", "expected"), [(1, 8, 1), (64, 3, 3), (2, 8, 2)])
def test_threads_are_never_more_than_the_processors_of_this_process(
    monkeypatch: pytest.MonkeyPatch, asked: int, available: int, expected: int
):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(available)), raising=False)
    before = torch.get_num_threads()
    try:
        assert set_up_cpu(asked) == torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_a_weight_fits_bfloat16_if_each_of_its_numbers_does():
    published = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert fits_bfloat16(published)
    assert fits_bfloat16(published.float())
    changed = published.float()
    changed[3, 3] += 2**-20
    assert not fits_bfloat16(changed)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("has_kernels", [False, True])
def test_the_fastest_product_is_the_product(monkeypatch: pytest.MonkeyPatch, has_kernels: bool, with_bias: bool):
    if not has_kernels:
        monkeypatch.setattr(device, "cpu_kernels", lambda _: None)
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(20, 12, generator=generator), torch.randn(5, 12, generator=generator)
    bias = torch.randn(20, generator=generator) if with_bias else None
    expected = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    torch.testing.assert_close(fastest_matmul(weight, bias)(x).double(), expected, rtol=1e-5, atol=1e-5)
