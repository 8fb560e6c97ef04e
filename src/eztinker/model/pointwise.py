"""RMS norm and the gated activation, each as one differentiable node that keeps only its input for backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from eztinker.model.device import own_kernels


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension, computed in float32. Differentiable in x alone."""
    if torch.is_grad_enabled() and x.requires_grad:
        return _RmsNorm.apply(x, weight, eps)  # type: ignore[no-any-return]
    return _rms_norm(x, weight, eps)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, the two halves of the last dimension."""
    if torch.is_grad_enabled() and gate_up.requires_grad:
        return _SwiGlu.apply(gate_up)  # type: ignore[no-any-return]
    return _swiglu(gate_up)


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    kernels = own_kernels(x)
    if kernels is not None:
        return kernels.rms_norm(x, weight, eps)
    return functional.rms_norm(x, (x.shape[-1],), weight, eps)


def _swiglu(gate_up: Tensor) -> Tensor:
    kernels = own_kernels(gate_up)
    if kernels is not None:
        return kernels.swiglu(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate).mul_(up)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return _rms_norm(x, weight, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        kernels = own_kernels(x)
        if kernels is not None:
            return kernels.rms_norm_backward(grad, x, weight, ctx.eps), None, None
        x32 = x.float()
        inverse_rms = torch.rsqrt(x32.square().mean(dim=-1, keepdim=True).add_(ctx.eps))
        unit = x32 * inverse_rms
        grad_unit = grad.float() * weight.float()
        along = (grad_unit * unit).mean(dim=-1, keepdim=True)
        grad_x = grad_unit.sub_(unit * along).mul_(inverse_rms)
        return grad_x.to(x.dtype), None, None


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        return _swiglu(gate_up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gate_up,) = ctx.saved_tensors
        kernels = own_kernels(gate_up)
        if kernels is not None:
            return kernels.swiglu_backward(grad, gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        grad_gate = torch.ops.aten.silu_backward(grad * up, gate)
        return torch.cat([grad_gate, functional.silu(gate).mul_(grad)], dim=-1)
