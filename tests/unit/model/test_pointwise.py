"""RMS norm and the gated activation, beside their formulas in float64, with and without our own kernels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from eztinker.model import device
from eztinker.model.pointwise import rms_norm, swiglu

EPS = 1e-5
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.fixture(params=["own kernels", "torch alone"], autouse=True)
def operators(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "torch alone":
        monkeypatch.setattr(device, "cpu_kernels", lambda _: None)


def draw(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def formula_of_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight


def formula_of_gate(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, dim=-1)
    return gate / (1 + (-gate).exp()) * up


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_values_and_gradients_are_those_of_the_formulas(dtype: torch.dtype, scale: float):
    x, upstream = scale * draw(5, 32, dtype=dtype), draw(5, 32, dtype=dtype, seed=1)
    weight = draw(32, dtype=dtype, seed=2)
    for ours, formula, gradient in (
        (lambda x: rms_norm(x, weight, EPS), lambda x: formula_of_norm(x, weight.double()), upstream),
        (swiglu, formula_of_gate, upstream[:, :16]),
    ):
        our_x, their_x = x.clone().requires_grad_(), x.double().requires_grad_()
        ours_y, theirs_y = ours(our_x), formula(their_x)
        (our_grad,) = torch.autograd.grad(ours_y, our_x, gradient)
        (their_grad,) = torch.autograd.grad(theirs_y, their_x, gradient.double())
        for our, their in ((ours_y, theirs_y), (our_grad, their_grad)):
            largest = float(their.detach().abs().max())
            torch.testing.assert_close(our.double(), their, rtol=ROUNDING[dtype], atol=ROUNDING[dtype] * largest)


def test_a_pass_that_needs_no_gradient_gives_the_same_bits():
    x, weight = draw(5, 32, dtype=torch.float32), draw(32, dtype=torch.float32, seed=2)
    assert torch.equal(rms_norm(x, weight, EPS), rms_norm(x.clone().requires_grad_(), weight, EPS))
    assert torch.equal(swiglu(x), swiglu(x.clone().requires_grad_()))
