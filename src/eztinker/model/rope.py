"""Rotary position embedding: the angle of each pair of channels at each position, and its published rescalings."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from eztinker.model.cpu_kernels import CpuKernels
from eztinker.model.device import own_kernels
from eztinker.model_files.rope_config import RopeConfig

_BLOCK_POSITIONS = 256


class RotationTable:
    """Cosines and sines of every position, made a block at a time and kept.

    Vectorised cosines may differ in their last bit with the place of a number in its tensor. A position's are computed
    in the same place of a tensor of the same size whoever asks, so they never depend on the batch.
    """

    def __init__(self, rope: RopeConfig, dtype: torch.dtype, device: torch.device) -> None:
        self._inverse_frequencies, self._amplitude = FREQUENCIES[rope.kind](rope)
        self._dtype, self._device = dtype, device
        self._cos_PD, self._sin_PD = (torch.empty(0, rope.head_dim, dtype=dtype, device=device) for _ in "ab")

    def at(self, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of every channel and of its partner, for `rotate`: (T, head_dim), attention scaling included."""
        num_positions = int(positions_T.max()) + 1 if positions_T.numel() else 0
        while len(self._cos_PD) < num_positions:
            self._grow(max(len(self._cos_PD), _BLOCK_POSITIONS))
        return self._cos_PD[positions_T], self._sin_PD[positions_T]

    def _grow(self, num_more: int) -> None:
        start = len(self._cos_PD)
        blocks = [self._block(first) for first in range(start, start + num_more, _BLOCK_POSITIONS)]
        self._cos_PD = torch.cat([self._cos_PD, *(cos for cos, _ in blocks)])
        self._sin_PD = torch.cat([self._sin_PD, *(sin for _, sin in blocks)])

    def _block(self, first: int) -> tuple[Tensor, Tensor]:
        positions = torch.arange(first, first + _BLOCK_POSITIONS, dtype=torch.float32)
        angles = positions[:, None] * self._inverse_frequencies[None, :]
        cos, sin = angles.cos() * self._amplitude, angles.sin() * self._amplitude
        pairs = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)
        return pairs[0].to(self._device, self._dtype), pairs[1].to(self._device, self._dtype)


def rotate(x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """Rotate channel i against channel i + head_dim / 2 of every head; T tokens, H heads, D channels."""
    kernels = own_kernels(x_THD)
    if kernels is not None and torch.is_grad_enabled() and x_THD.requires_grad:
        return _Rotated.apply(kernels, x_THD, cos_TD, sin_TD)  # type: ignore[no-any-return]
    if kernels is not None:
        return kernels.rotate(x_THD, cos_TD, sin_TD)
    partner_THD = x_THD.roll(x_THD.shape[-1] // 2, dims=-1)
    return torch.addcmul(x_THD * cos_TD[:, None, :], partner_THD, sin_TD[:, None, :])


class _Rotated(torch.autograd.Function):
    """`rotate` by EZTinker's own kernel. Its gradient is the rotation by the opposite angle."""

    @staticmethod
    def forward(ctx: Any, kernels: CpuKernels, x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
        ctx.save_for_backward(cos_TD, sin_TD)
        ctx.kernels = kernels
        return kernels.rotate(x_THD, cos_TD, sin_TD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_THD: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        cos_TD, sin_TD = ctx.saved_tensors
        return None, ctx.kernels.rotate(grad_THD.contiguous(), cos_TD, -sin_TD), None, None


def _default(rope: RopeConfig) -> tuple[Tensor, float]:
    exponents = torch.arange(0, rope.head_dim, 2, dtype=torch.float32) / rope.head_dim
    return 1.0 / rope.theta**exponents, 1.0


def _linear(rope: RopeConfig) -> tuple[Tensor, float]:
    frequencies, amplitude = _default(rope)
    return frequencies / rope.scaling["factor"], amplitude


def _proportional(rope: RopeConfig) -> tuple[Tensor, float]:
    """Rotate the first channels alone, at the frequencies they have when all are rotated."""
    frequencies, amplitude = _linear(rope)
    num_turning = int(rope.scaling["partial_rotary_factor"] * rope.head_dim // 2)
    return torch.cat((frequencies[:num_turning], torch.zeros_like(frequencies[num_turning:]))), amplitude


def _llama3(rope: RopeConfig) -> tuple[Tensor, float]:
    """Slow channels are slowed by `factor`, fast ones kept, those between blended (Llama 3.1 model files)."""
    frequencies, amplitude = _default(rope)
    factor = rope.scaling["factor"]
    low, high = rope.scaling["low_freq_factor"], rope.scaling["high_freq_factor"]
    turns = rope.scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    keep = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - keep) * frequencies / factor + keep * frequencies, amplitude


def _yarn(rope: RopeConfig) -> tuple[Tensor, float]:
    """Blend by the number of turns over the original context. Source: Peng et al. 2023, arXiv:2309.00071, sec. 3."""
    frequencies, _ = _default(rope)
    factor = rope.scaling["factor"]
    original = rope.scaling["original_max_position_embeddings"]

    def channel_of(turns: float) -> float:
        return rope.head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    first, last = channel_of(rope.scaling["beta_fast"]), channel_of(rope.scaling["beta_slow"])
    if rope.scaling["truncate"]:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rope.head_dim - 1)
    width = last - first or 0.001
    slow = ((torch.arange(rope.head_dim // 2, dtype=torch.float32) - first) / width).clamp(0.0, 1.0)
    return slow * frequencies / factor + (1 - slow) * frequencies, rope.scaling["attention_factor"]


FREQUENCIES: dict[str, Callable[[RopeConfig], tuple[Tensor, float]]] = {
    "default": _default,
    "linear": _linear,
    "proportional": _proportional,
    "llama3": _llama3,
    "yarn": _yarn,
}
