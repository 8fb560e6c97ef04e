"""Log-probabilities of given tokens, without ever holding the logits of all positions.

M = positions, V = vocabulary, K = targets per position.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from eztinker.model.linear import FrozenLinear, LowRankDelta

CHUNK_LOGITS = 4_000_000
"""Number of logits computed at a time: few enough for the processor's cache, enough for large products."""


def target_logprobs(
    head: FrozenLinear, hidden_MH: Tensor, targets_MK: Tensor, deltas: Sequence[LowRankDelta] = ()
) -> Tensor:
    """Natural log-probability of every target at its position, float32 (M, K).

    Differentiable in the hidden states and the deltas' factors. The backward pass recomputes the logits, and only at
    positions whose gradient is not zero, so positions that carry no loss cost it nothing.
    """
    factors = [factor for delta in deltas for factor in (delta.a, *delta.bs)]
    return _TargetLogprobs.apply(head, tuple(deltas), targets_MK, hidden_MH, *factors)  # type: ignore[no-any-return]


def chunks_of_positions(num_positions: int, vocab_size: int) -> list[slice]:
    """Chunks of positions whose logits are computed together."""
    step = max(16, CHUNK_LOGITS // vocab_size)
    return [slice(start, min(start + step, num_positions)) for start in range(0, num_positions, step)]


class _TargetLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        head: FrozenLinear,
        deltas: tuple[LowRankDelta, ...],
        targets_MK: Tensor,
        hidden_MH: Tensor,
        *factors: Tensor,
    ) -> Tensor:
        log_totals_M = hidden_MH.new_empty(hidden_MH.shape[0], dtype=torch.float32)
        logprobs_MK = hidden_MH.new_empty(targets_MK.shape, dtype=torch.float32)
        for chunk in chunks_of_positions(hidden_MH.shape[0], head.num_outputs):
            logits, _ = _logits(head, deltas, hidden_MH[chunk])
            log_totals_M[chunk] = torch.logsumexp(logits, dim=-1)
            logprobs_MK[chunk] = logits.gather(1, targets_MK[chunk]) - log_totals_M[chunk, None]
        ctx.head, ctx.deltas = head, deltas
        ctx.save_for_backward(targets_MK, hidden_MH, log_totals_M)
        return logprobs_MK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_MK: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        targets_MK, hidden_MH, log_totals_M = ctx.saved_tensors
        head, deltas = ctx.head, ctx.deltas
        grad_hidden_MH = torch.zeros_like(hidden_MH)
        grad_factors = [torch.zeros_like(factor) for delta in deltas for factor in (delta.a, *delta.bs)]
        carrying = (grad_MK != 0).any(dim=1).nonzero()[:, 0]
        for chunk in chunks_of_positions(carrying.shape[0], head.num_outputs):
            rows = carrying[chunk]
            hidden, grad = hidden_MH[rows], grad_MK[rows]
            logits, lows = _logits(head, deltas, hidden)
            probs = logits.sub_(log_totals_M[rows, None]).exp_()
            grad_logits = probs.mul_(-grad.sum(dim=1, keepdim=True)).scatter_add_(1, targets_MK[rows], grad)
            grad_logits = grad_logits.to(hidden.dtype)
            grad_hidden = head.multiply_back(grad_logits)
            new = [
                factor_grad
                for delta, low in zip(deltas, lows, strict=True)
                for factor_grad in delta.backward(grad_logits, hidden, low, grad_hidden)
            ]
            for total, part in zip(grad_factors, new, strict=True):
                total.add_(part)
            grad_hidden_MH[rows] = grad_hidden
        return None, None, None, grad_hidden_MH, *grad_factors


def _logits(head: FrozenLinear, deltas: Sequence[LowRankDelta], hidden_MH: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits in float32, and each delta's x A^T for its backward pass."""
    logits = head.multiply(hidden_MH)
    lows = [delta.add_to(logits, hidden_MH) for delta in deltas]
    return logits.float(), lows
