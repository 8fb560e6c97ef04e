"""Attention by torch's operators: batched products on CPUs up to fine-tuning lengths, the fused kernel elsewhere.

B = sequences, L = positions of each, S = key positions, H = heads, K = key-value heads, G = H / K query heads that
share one key-value head, D = head_dim. Queries that share keys are laid out as more query positions, (B*K, G*L, D), so
that no key or value is ever copied for them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from eztinker.model.device import prefers_plain_attention

QUERY_SPAN = 128
"""Number of queries multiplied together: the scores stay in a core's cache, and later keys are left out."""


def attend_grid(
    q_BLHD: Tensor, k_BLKD: Tensor, v_BLKD: Tensor, *, prefix: tuple[Tensor, Tensor] | None, window: int | None
) -> Tensor:
    """Causal attention of padded sequences, behind a prefix of (P, K, D) keys and values if any; gives (B, L, H, D)."""
    batch, length, num_heads, head_dim = q_BLHD.shape
    kv_heads = k_BLKD.shape[2]
    groups = num_heads // kv_heads
    if prefix is not None:
        k_BLKD, v_BLKD = (
            torch.cat([before.expand(batch, *before.shape), own], dim=1)
            for before, own in zip(prefix, (k_BLKD, v_BLKD), strict=True)
        )
    num_keys = k_BLKD.shape[1]
    q = q_BLHD.view(batch, length, kv_heads, groups, head_dim).permute(0, 2, 3, 1, 4)
    k, v = k_BLKD.transpose(1, 2), v_BLKD.transpose(1, 2)
    if prefers_plain_attention(q_BLHD.device, num_keys):
        out = _attend_in_spans(q, k, v, window)
    else:
        bias_LS = _causal_bias(length, num_keys, window, q_BLHD.device)
        out = functional.scaled_dot_product_attention(
            q.reshape(batch, num_heads, length, head_dim),
            k.repeat_interleave(groups, dim=1),
            v.repeat_interleave(groups, dim=1),
            attn_mask=bias_LS.to(q.dtype) if prefix is not None or window is not None else None,
            is_causal=prefix is None and window is None,
        ).view(batch, kv_heads, groups, length, head_dim)
    return out.permute(0, 3, 1, 2, 4).reshape(batch, length, num_heads, head_dim)


def _attend_in_spans(q_BKGLD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, window: int | None) -> Tensor:
    """Causal attention (B, K, G, L, D) by `_PlainAttention`, a span of queries at a time over the keys they can see."""
    batch, kv_heads, groups, length, head_dim = q_BKGLD.shape
    num_before = k_BKSD.shape[2] - length
    spans = []
    for start in range(0, length, QUERY_SPAN):
        stop = min(start + QUERY_SPAN, length)
        first = 0 if window is None else max(0, num_before + start - window + 1)
        k, v = (each[:, :, first : num_before + stop].flatten(0, 1) for each in (k_BKSD, v_BKSD))
        q = q_BKGLD[:, :, :, start:stop].reshape(batch * kv_heads, groups * (stop - start), head_dim)
        bias_QS = _causal_bias(stop - start, k.shape[1], window, q.device).repeat(groups, 1)
        span = _PlainAttention.apply(q, k, v, bias_QS)
        spans.append(span.view(batch, kv_heads, groups, stop - start, head_dim))
    return torch.cat(spans, dim=3)


def _causal_bias(num_queries: int, num_keys: int, window: int | None, device: torch.device) -> Tensor:
    """Causal mask of queries at the last `num_queries` key positions: 0 on visible keys, minus infinity elsewhere."""
    query = torch.arange(num_keys - num_queries, num_keys, device=device)[:, None]
    key = torch.arange(num_keys, device=device)[None, :]
    visible = key <= query
    if window is not None:
        visible &= key > query - window
    return torch.zeros(visible.shape, device=device).masked_fill_(~visible, -math.inf)


class _PlainAttention(torch.autograd.Function):
    """Attention by batched products, differentiable.

    On a CPU this is several times faster, forward and backward, than torch's fused kernel at the lengths of
    fine-tuning; it keeps the probabilities, so its memory grows with the square of the length.
    """

    @staticmethod
    def forward(ctx: Any, q_NQD: Tensor, k_NSD: Tensor, v_NSD: Tensor, bias_QS: Tensor) -> Tensor:
        out, probs = softmax_attention(q_NQD, k_NSD, v_NSD, bias_QS)
        ctx.save_for_backward(q_NQD, k_NSD, v_NSD, probs)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NQD: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, probs = ctx.saved_tensors
        scale = q.shape[-1] ** -0.5
        grad_v = torch.bmm(probs.transpose(1, 2), grad_NQD)
        grad_probs = torch.bmm(grad_NQD, v.transpose(1, 2))
        grad_scores = torch.ops.aten._softmax_backward_data(grad_probs, probs, -1, probs.dtype)
        grad_q = torch.bmm(grad_scores, k).mul_(scale)
        grad_k = torch.bmm(grad_scores.transpose(1, 2), q).mul_(scale)
        return grad_q, grad_k, grad_v, None


def softmax_attention(q_NQD: Tensor, k_NSD: Tensor, v_NSD: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(q k^T / sqrt(D) + bias) v, and the probabilities. Scores and softmax are always float32."""
    scale = q_NQD.shape[-1] ** -0.5
    scores_NQS = torch.baddbmm(bias, q_NQD.float(), k_NSD.float().transpose(1, 2), alpha=scale)
    probs_NQS = torch.softmax(scores_NQS, dim=-1).to(v_NSD.dtype)
    return torch.bmm(probs_NQS, v_NSD), probs_NQS
