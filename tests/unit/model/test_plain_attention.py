"""Attention in spans of queries, beside the softmax of all scores at once."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from eztinker.model.plain_attention import QUERY_SPAN, attend_grid

B, H, K, D = 2, 6, 3, 8


def attend_at_once(
    q_BLHD: Tensor, k_BLKD: Tensor, v_BLKD: Tensor, prefix: tuple[Tensor, Tensor] | None, window: int | None
) -> Tensor:
    """The textbook formula in float64, with keys and values copied for every head."""
    if prefix is not None:
        k_BLKD, v_BLKD = (
            torch.cat([before.expand(B, *before.shape), own], dim=1)
            for before, own in zip(prefix, (k_BLKD, v_BLKD), strict=True)
        )
    k, v = (each.repeat_interleave(H // K, dim=2).transpose(1, 2) for each in (k_BLKD, v_BLKD))
    num_queries, num_keys = q_BLHD.shape[1], k.shape[2]
    distance = torch.arange(num_keys - num_queries, num_keys)[:, None] - torch.arange(num_keys)
    is_hidden = (distance < 0) | (distance >= (window or num_keys))
    scores = q_BLHD.transpose(1, 2) @ k.transpose(2, 3) / math.sqrt(D)
    return (scores.masked_fill(is_hidden, -math.inf).softmax(-1) @ v).transpose(1, 2)


@pytest.mark.parametrize("num_before", [0, 40, 200])
@pytest.mark.parametrize("window", [None, 1, 50, 1000])
@pytest.mark.parametrize("length", [1, QUERY_SPAN, QUERY_SPAN + 1, 2 * QUERY_SPAN + 44])
def test_spans_give_the_outputs_and_the_gradients_of_one_softmax(length: int, window: int | None, num_before: int):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, requires_grad=True)

    inputs = draw(B, length, H, D), draw(B, length, K, D), draw(B, length, K, D)
    prefix = (draw(num_before, K, D), draw(num_before, K, D)) if num_before else None
    leaves = [*inputs, *(prefix or ())]
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    out = attend_grid(*inputs, prefix=prefix, window=window)
    wanted = attend_at_once(doubles[0], doubles[1], doubles[2], (doubles[3], doubles[4]) if prefix else None, window)
    torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-5)
    grad = torch.randn(out.shape, generator=generator)
    out.backward(grad)
    wanted.backward(grad.double())
    for leaf, double in zip(leaves, doubles, strict=True):
        assert leaf.grad is not None
        assert double.grad is not None
        torch.testing.assert_close(leaf.grad.double(), double.grad, rtol=1e-4, atol=1e-5)
