"""Products with frozen weights and what adapters add to them, beside the same written out in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from eztinker.model import device
from eztinker.model.linear import FrozenLinear, LowRankDelta, product

ROWS, INPUTS, OUTPUTS, RANK = 7, 24, (8, 4, 4), 3
"""Outputs of three projections that share one fused weight."""
SCALE = 2.0


@pytest.fixture(params=["own kernels", "torch alone"], autouse=True)
def operators(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "torch alone":
        monkeypatch.setattr(device, "cpu_kernels", lambda _: None)


@pytest.fixture
def draw() -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(1)
    return lambda *shape: torch.randn(*shape, generator=generator)


def added(x: Tensor, a: Tensor, bs: tuple[Tensor, ...], rows: list[int] | None) -> Tensor:
    """What the adapter adds, projection by projection."""
    parts = [x @ part.T @ b.T for part, b in zip(a.split(RANK), bs, strict=True)]
    member = torch.zeros(len(x), 1, dtype=x.dtype)
    member[slice(None) if rows is None else rows] = SCALE
    return member * torch.cat(parts, dim=1)


@pytest.mark.parametrize("with_bias", [False, True])
def test_an_adapted_product_and_its_gradients_are_the_formula(draw: Callable[..., Tensor], with_bias: bool):
    weight, bias = draw(sum(OUTPUTS), INPUTS), draw(sum(OUTPUTS)) if with_bias else None
    x, a = draw(ROWS, INPUTS).requires_grad_(), draw(len(OUTPUTS) * RANK, INPUTS).requires_grad_()
    bs = tuple(draw(num_outputs, RANK).requires_grad_() for num_outputs in OUTPUTS)
    delta = LowRankDelta(a=a, bs=bs, scale=SCALE, rows=None)
    ours = FrozenLinear(weight, bias)(x, [delta])
    upstream = draw(ROWS, sum(OUTPUTS))
    our_grads = torch.autograd.grad(ours, [x, a, *bs], upstream)

    inputs = [each.detach().double().requires_grad_() for each in (x, a, *bs)]
    x64, a64, *bs64 = inputs
    expected = x64 @ weight.double().T + added(x64, a64, tuple(bs64), None)
    if bias is not None:
        expected = expected + bias.double()
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-4)
    for our, their in zip(our_grads, torch.autograd.grad(expected, inputs, upstream.double()), strict=True):
        torch.testing.assert_close(our.double(), their, rtol=1e-4, atol=1e-3)


def test_adapters_of_several_owners_change_their_own_rows_alone(draw: Callable[..., Tensor]):
    weight, x = draw(sum(OUTPUTS), INPUTS), draw(ROWS, INPUTS)
    layer = FrozenLinear(weight)
    deltas = [
        LowRankDelta(
            a=draw(len(OUTPUTS) * RANK, INPUTS),
            bs=tuple(draw(num_outputs, RANK) for num_outputs in OUTPUTS),
            scale=SCALE,
            rows=torch.tensor(rows),
        )
        for rows in ([0, 2], [1])
    ]
    with torch.no_grad():
        plain, together = layer(x), layer(x, deltas)
    assert torch.equal(together[3:], plain[3:])
    for delta, rows in zip(deltas, ([0, 2], [1]), strict=True):
        expected = plain[rows] + SCALE * torch.cat(
            [x[rows] @ part.T @ b.T for part, b in zip(delta.a.split(RANK), delta.bs, strict=True)], dim=1
        )
        torch.testing.assert_close(together[rows], expected, rtol=1e-4, atol=1e-4)


def test_a_layer_without_an_adapter_has_a_gradient_for_its_input(draw: Callable[..., Tensor]):
    weight, x, upstream = draw(10, INPUTS), draw(ROWS, INPUTS).requires_grad_(), draw(ROWS, 10)
    (grad,) = torch.autograd.grad(FrozenLinear(weight)(x), x, upstream)
    torch.testing.assert_close(grad, upstream @ weight, rtol=1e-4, atol=1e-4)


def test_a_product_of_two_inputs_has_the_gradients_of_both(draw: Callable[..., Tensor]):
    x, a, upstream = draw(ROWS, RANK).requires_grad_(), draw(RANK, INPUTS).requires_grad_(), draw(ROWS, INPUTS)
    ours = product(x, a)
    grads = torch.autograd.grad(ours, [x, a], upstream)
    torch.testing.assert_close(ours, x @ a, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grads[0], upstream @ a.T, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grads[1], x.T @ upstream, rtol=1e-4, atol=1e-4)
