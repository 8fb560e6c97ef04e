"""Products with frozen base weights, alone and with LoRA adapters on rows of the batch.

M = rows (tokens of all sequences, packed), I = inputs, O = outputs of one fused weight, r = rank.
A fused weight serves several projections of one input (q, k, v). Their adapters share one stacked A, r rows for each,
and keep one B each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from eztinker.model.cpu_kernels import CpuKernels, PackedWeight
from eztinker.model.device import KernelMatmul, fastest_matmul, own_kernels


class FrozenLinear:
    """Linear layer y = x W^T + b with a frozen weight. Differentiable in x alone."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> None:
        self.num_outputs = weight_OI.shape[0]
        self.multiply = fastest_matmul(weight_OI, bias_O)
        self.multiply_back = fastest_matmul(weight_OI.T)
        """Product of the backward pass, grad W: gradients of y to gradients of x."""

    @property
    def packed(self) -> PackedWeight | None:
        """The weight as EZTinker's own kernels read it, or None where torch computes the product."""
        return self.multiply.packed if isinstance(self.multiply, KernelMatmul) else None

    def __call__(self, x_MI: Tensor, deltas: Sequence[LowRankDelta] = ()) -> Tensor:
        if torch.is_grad_enabled() and (x_MI.requires_grad or any(delta.a.requires_grad for delta in deltas)):
            factors = [factor for delta in deltas for factor in (delta.a, *delta.bs)]
            return _AdaptedLinear.apply(self, tuple(deltas), x_MI, *factors)  # type: ignore[no-any-return]
        y_MO = self.multiply(x_MI)
        for delta in deltas:
            delta.add_to(y_MO, x_MI)
        return y_MO


class PackedFactors:
    """One A and one B of a fused weight as EZTinker's own kernels read them, in the base model's dtype."""

    def __init__(self, kernels: CpuKernels, a_RI: Tensor, b_OR: Tensor, dtype: torch.dtype) -> None:
        num_added = -a_RI.shape[0] % kernels.input_multiple  # rows of zeros change nothing
        self._kernels = kernels
        self.a = kernels.pack_weight(functional.pad(a_RI, (0, 0, 0, num_added)).to(dtype))
        self.b = kernels.pack_weight(functional.pad(b_OR, (0, num_added)).to(dtype))

    def add_to(self, y_MO: Tensor, x_MI: Tensor, scale: float) -> Tensor:
        """Add scale * x A^T B^T into `y_MO`, in place; gives x A^T."""
        hidden_MR = self._kernels.linear(x_MI, self.a)
        self._kernels.add_linear(y_MO, hidden_MR, self.b, scale)
        return hidden_MR


@dataclass(frozen=True, slots=True, eq=False)
class LowRankDelta:
    """Low-rank update of one fused weight by one adapter, on some rows: scale * x A^T B^T, projection by projection."""

    a: Tensor
    """(projections * r, I), the A of every adapted projection stacked."""
    bs: tuple[Tensor, ...]
    """One (outputs, r) per projection, in the order of the fused weight's outputs."""
    scale: float
    rows: Tensor | None
    """Rows of the batch that belong to the adapter; None means all."""
    in_float32: bool = False
    """Whether to compute in float32, not in the input's dtype: cheaper for few rows: bfloat16 kernels start slowly."""
    packed: PackedFactors | None = None
    """A and B as EZTinker's own kernels read them; if None, they are packed anew at every use."""

    def add_to(self, y_MO: Tensor, x_MI: Tensor) -> Tensor:
        """Add the delta into `y_MO`, in place; gives x A^T of its rows, which the backward pass needs."""
        x = x_MI if self.rows is None else x_MI[self.rows]
        kernels = own_kernels(y_MO)
        if kernels is not None:
            packed = self.packed or PackedFactors(kernels, self.a, torch.block_diag(*self.bs), y_MO.dtype)
            y = y_MO if self.rows is None else y_MO[self.rows]
            hidden = packed.add_to(y, x, self.scale)
            if self.rows is not None:
                y_MO[self.rows] = y
            return hidden
        dtype = torch.float32 if self.in_float32 else x.dtype
        hidden = x.to(dtype) @ self.a.to(dtype).T
        if self.rows is not None:
            update = torch.cat([part @ b.to(dtype).T for b, part, _ in self._projections(hidden)], dim=1)
            y_MO.index_add_(0, self.rows, update.to(y_MO.dtype), alpha=self.scale)
            return hidden
        for b, part, columns in self._projections(hidden):
            if dtype == y_MO.dtype:
                y_MO[:, columns].addmm_(part, b.to(dtype).T, alpha=self.scale)
            else:
                y_MO[:, columns].add_(part @ b.to(dtype).T, alpha=self.scale)
        return hidden

    def backward(self, grad_MO: Tensor, x_MI: Tensor, hidden: Tensor, grad_x_MI: Tensor) -> list[Tensor]:
        """Gradients of A and of each B; the input's gradient is added into `grad_x_MI`."""
        assert self.rows is None, "a training pass runs every row through its one adapter"
        kernels = own_kernels(grad_MO)
        grad_hidden, grad_bs = [], []
        for b, part, columns in self._projections(hidden):
            if kernels is not None:
                b_RO = kernels.pack_weight(b.to(x_MI.dtype).T)
                grad_hidden.append(kernels.linear(grad_MO[:, columns], b_RO))
            else:
                grad_hidden.append(grad_MO[:, columns] @ b.to(x_MI.dtype))
            # Few rows times many columns: the other way round takes several times as long on a CPU.
            grad_bs.append((part.T @ grad_MO[:, columns]).T.float() * self.scale)
        grad_h = torch.cat(grad_hidden, dim=1) if len(grad_hidden) > 1 else grad_hidden[0]
        grad_a = (grad_h.T @ x_MI).float() * self.scale
        grad_x_MI.addmm_(grad_h, self.a.to(x_MI.dtype), alpha=self.scale)
        return [grad_a, *grad_bs]

    def _projections(self, hidden: Tensor) -> Iterator[tuple[Tensor, Tensor, slice]]:
        """Each B with its part of x A^T and its columns of the fused output."""
        start_h = start_o = 0
        for b in self.bs:
            num_outputs, rank = b.shape
            yield b, hidden[:, start_h : start_h + rank], slice(start_o, start_o + num_outputs)
            start_h, start_o = start_h + rank, start_o + num_outputs


def product(x_MR: Tensor, a_RI: Tensor, packed: PackedWeight | None = None) -> Tensor:
    """The product x A, differentiable in both; `packed` is A transposed, as EZTinker's own kernels read it."""
    return _Product.apply(x_MR, a_RI, packed)  # type: ignore[no-any-return]


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_MR: Tensor, a_RI: Tensor, packed: PackedWeight | None) -> Tensor:
        ctx.save_for_backward(x_MR, a_RI)
        kernels = own_kernels(x_MR)
        return x_MR @ a_RI if kernels is None else kernels.linear(x_MR, packed or kernels.pack_weight(a_RI.T))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_MI: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_MR, a_RI = ctx.saved_tensors
        return grad_MI @ a_RI.T, x_MR.T @ grad_MI, None


class _AdaptedLinear(torch.autograd.Function):
    """Autograd node of the frozen product plus every delta: nothing but x and the small x A^T is kept for backward."""

    @staticmethod
    def forward(
        ctx: Any, layer: FrozenLinear, deltas: tuple[LowRankDelta, ...], x_MI: Tensor, *factors: Tensor
    ) -> Tensor:
        y_MO = layer.multiply(x_MI)
        hiddens = [delta.add_to(y_MO, x_MI) for delta in deltas]
        ctx.layer, ctx.deltas = layer, deltas
        ctx.save_for_backward(*([x_MI] if deltas else []), *hiddens)
        return y_MO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_MO: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad_x = ctx.layer.multiply_back(grad_MO)
        grads: list[Tensor] = []
        if ctx.deltas:
            x_MI, *hiddens = ctx.saved_tensors
            for delta, hidden in zip(ctx.deltas, hiddens, strict=True):
                grads += delta.backward(grad_MO, x_MI, hidden, grad_x)
        return None, None, grad_x, *grads
