"""Causal attention, over packed sequences (training, prefill) and over a KV cache (decode).

T = packed tokens, B = sequences, L = longest sequence of a group, S = key positions, H = heads, K = key-value heads,
G = H / K query heads that share one key-value head, D = head_dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from eztinker.model.device import own_kernels, prefers_plain_attention
from eztinker.model.kv_cache import KVBlock, KVCache
from eztinker.model.plain_attention import attend_grid, softmax_attention

GROUP_WASTE = 1.25
"""Sequences share an attention call while padding them to the longest costs at most this factor."""


class Attention(Protocol):
    """Attention as the decoder's layers call it: over packed sequences, or for one new token per cached sequence."""

    positions_T: Tensor
    """Position of each packed token in its sequence, int64 (T,)."""

    def attend(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, window: int | None) -> Tensor:
        """The attention output of every token, (T, H, D)."""
        ...


class PackedAttention:
    """Whole sequences laid end to end; each token sees its own sequence up to itself, and the shared prefix."""

    def __init__(
        self,
        lengths: Sequence[int],
        device: torch.device,
        *,
        prefix: KVBlock | None = None,
        keep_keys: bool = False,
    ) -> None:
        """Prepare attention over sequences of these lengths.

        Args:
            lengths: tokens of each sequence, in packed order.
            prefix: keys and values of tokens that come before every one of the sequences.
            keep_keys: keep each layer's keys and values, for `block`.
        """
        self._prefix = prefix
        self._kept: list[tuple[Tensor, Tensor]] | None = [] if keep_keys else None
        starts = _starts(lengths)
        self._groups = [_Group.of(members, lengths, starts, device) for members in _similar_lengths(lengths)]
        first = prefix.num_tokens if prefix else 0
        spans = [torch.arange(first, first + length, device=device) for length in lengths]
        self.positions_T = torch.cat(spans)
        self._longest = max(lengths)
        self._starts_T = torch.repeat_interleave(torch.tensor(starts), torch.tensor(lengths)).to(device)
        self._spans = [slice(start, start + length) for start, length in zip(starts, lengths, strict=True)]

    def attend(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, window: int | None) -> Tensor:
        if self._kept is not None:
            self._kept.append((k_TKD, v_TKD))
        prefix = self._prefix.layer(layer) if self._prefix else None
        kernels = own_kernels(q_THD)
        if kernels is None:
            return self._attend_by_groups(q_THD, k_TKD, v_TKD, prefix, window)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return kernels.attend_packed(q, k, v, prefix, self._starts_T, self._longest, window)

        def attend_differentiably(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return self._attend_by_groups(q, k, v, prefix, window)

        return _Recomputed.apply(attend, attend_differentiably, q_THD, k_TKD, v_TKD)  # type: ignore[no-any-return]

    def _attend_by_groups(
        self, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, prefix: tuple[Tensor, Tensor] | None, window: int | None
    ) -> Tensor:
        if len(self._groups) == 1 and self._groups[0].is_whole:
            return self._groups[0].attend(q_THD, k_TKD, v_TKD, prefix, window)
        parts = [group.attend(q_THD, k_TKD, v_TKD, prefix, window) for group in self._groups]
        order = torch.cat([group.tokens for group in self._groups])
        return torch.empty_like(q_THD).index_copy(0, order, torch.cat(parts))

    def block(self, sequence: int) -> KVBlock:
        """The keys and values of one sequence, prefix included. Needs `keep_keys`."""
        own = self.own_block(sequence)
        return self._prefix.followed_by(own) if self._prefix else own

    def own_block(self, sequence: int) -> KVBlock:
        """The keys and values of one sequence without the prefix. Needs `keep_keys`."""
        assert self._kept is not None
        span = self._spans[sequence]
        keys = torch.stack([k[span] for k, _ in self._kept])
        values = torch.stack([v[span] for _, v in self._kept])
        return KVBlock(keys, values)


@dataclass(frozen=True, slots=True)
class _Group:
    """Sequences of similar length, padded on the right to one (B, L) grid. Causality hides the padding."""

    index_BL: Tensor
    """The packed token behind each cell; padding repeats the sequence's first token."""
    tokens: Tensor
    """The packed tokens of the group in grid order, padding left out."""
    cells: Tensor | None
    """Indices of `tokens` in the flattened grid; None where nothing is padded."""
    is_whole: bool
    """Whether the grid is the packed order itself, so that gathering can be left out."""

    @classmethod
    def of(cls, members: list[int], lengths: Sequence[int], starts: list[int], device: torch.device) -> _Group:
        longest = max(lengths[member] for member in members)
        offsets = torch.arange(longest)
        start_B1 = torch.tensor([starts[member] for member in members])[:, None]
        length_B1 = torch.tensor([lengths[member] for member in members])[:, None]
        is_real = offsets[None, :] < length_B1
        index = torch.where(is_real, start_B1 + offsets[None, :], start_B1)
        tokens = index[is_real]
        cells = None if bool(is_real.all()) else is_real.flatten().nonzero()[:, 0].to(device)
        is_whole = cells is None and torch.equal(tokens, torch.arange(sum(lengths)))
        return cls(index.to(device), tokens.to(device), cells, is_whole)

    def attend(
        self, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, prefix: tuple[Tensor, Tensor] | None, window: int | None
    ) -> Tensor:
        """Outputs of the group's tokens, in the order of `tokens`."""
        num_sequences, longest = self.index_BL.shape
        out_BLHD = attend_grid(
            *(self._grid(x, num_sequences, longest) for x in (q_THD, k_TKD, v_TKD)), prefix=prefix, window=window
        )
        flat = out_BLHD.reshape(num_sequences * longest, *q_THD.shape[1:])
        return flat if self.cells is None else flat[self.cells]

    def _grid(self, x_THD: Tensor, num_sequences: int, longest: int) -> Tensor:
        if self.is_whole:
            return x_THD.reshape(num_sequences, longest, *x_THD.shape[1:])
        return x_THD[self.index_BL]


class CachedAttention:
    """One new token for each of the cache's first rows; its keys and values are appended to the row."""

    def __init__(self, cache: KVCache, num_rows: int) -> None:
        self._cache = cache
        self._rows = torch.arange(num_rows, device=cache.device)
        self.positions_T, self._num_keys = cache.make_room(num_rows)
        self._biases: dict[int | None, Tensor] = {}

    def attend(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, window: int | None) -> Tensor:
        num_rows, num_heads, head_dim = q_THD.shape
        self._cache.append(layer, self._rows, self.positions_T, k_TKD, v_TKD)
        keys_BKSD, values_BKSD = self._cache.view(layer, num_rows, self._num_keys)
        num_kv_heads = keys_BKSD.shape[1]
        q_BKGD = q_THD.view(num_rows, num_kv_heads, num_heads // num_kv_heads, head_dim)
        bias_B11S = self._bias(window)
        if prefers_plain_attention(q_THD.device, self._num_keys):
            bias_NGS = bias_B11S.expand(*q_BKGD.shape[:3], self._num_keys).flatten(0, 1)
            out, _ = softmax_attention(
                q_BKGD.flatten(0, 1), keys_BKSD.flatten(0, 1), values_BKSD.flatten(0, 1), bias_NGS
            )
        else:
            out = functional.scaled_dot_product_attention(
                q_BKGD, keys_BKSD.to(q_THD.dtype), values_BKSD, attn_mask=bias_B11S.to(q_THD.dtype)
            )
        return out.reshape(num_rows, num_heads, head_dim)

    def _bias(self, window: int | None) -> Tensor:
        """Mask (B, 1, 1, S): 0 on visible keys, minus infinity elsewhere; shared by layers of one window."""
        if window not in self._biases:
            keys = torch.arange(self._num_keys, device=self._cache.device)
            newest_B1 = self.positions_T[:, None]
            visible = keys <= newest_B1
            if window is not None:
                visible &= keys > newest_B1 - window
            bias = torch.zeros(visible.shape, device=keys.device).masked_fill_(~visible, -math.inf)
            self._biases[window] = bias[:, None, None, :]
        return self._biases[window]


class _Recomputed(torch.autograd.Function):
    """Activation recomputation: the backward pass computes a function again by operators that torch can differentiate.

    Nothing but its inputs is kept in between.
    """

    @staticmethod
    def forward(
        ctx: Any, function: Callable[..., Tensor], differentiable: Callable[..., Tensor], *inputs: Tensor
    ) -> Tensor:
        ctx.differentiable = differentiable
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        inputs = [each.detach().requires_grad_() for each in ctx.saved_tensors]
        with torch.enable_grad():
            output = ctx.differentiable(*inputs)
        return None, None, *torch.autograd.grad(output, inputs, grad)


def _starts(lengths: Sequence[int]) -> list[int]:
    starts, total = [], 0
    for length in lengths:
        starts.append(total)
        total += length
    return starts


def _similar_lengths(lengths: Sequence[int]) -> list[list[int]]:
    """Split sequences into groups whose padding costs at most `GROUP_WASTE`, longest group first."""
    by_length = sorted(range(len(lengths)), key=lambda sequence: -lengths[sequence])
    groups: list[list[int]] = []
    real = 0
    for sequence in by_length:
        if groups and lengths[groups[-1][0]] * (len(groups[-1]) + 1) <= GROUP_WASTE * (real + lengths[sequence]):
            groups[-1].append(sequence)
            real += lengths[sequence]
        else:
            groups.append([sequence])
            real = lengths[sequence]
    return [sorted(group) for group in groups]
