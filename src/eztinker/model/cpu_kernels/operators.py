"""The compiled kernels as operators on tensors."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_HEAD_DIM_STEP = 32

Pointer, Int, Long, Float = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float
_ARGUMENTS: dict[str, list[type]] = {
    "packed_size": [Int, Int, Int],
    "pack_weight": [Pointer, Pointer, Int, Int, Int, Int],
    "linear": [Pointer, Pointer, Long, Pointer, Int, Int],
    "add_linear": [Pointer, Pointer, Long, Pointer, Int, Float, Int],
    "rms_norm": [Pointer, Pointer, Pointer, Int, Int, Float, Int],
    "rms_norm_backward": [Pointer, Pointer, Pointer, Pointer, Int, Int, Float, Int],
    "swiglu": [Pointer, Pointer, Int, Int, Int],
    "swiglu_backward": [Pointer, Pointer, Pointer, Int, Int, Int],
    "scratch_size": [Int, Int],
    "rotate": [Pointer, Long, Pointer, Pointer, Pointer, Int, Int, Int, Int],
    "attend_packed": [Pointer, Long] * 3 + [Pointer] * 5 + [Int] * 8,
    "draw": [Pointer] * 5 + [Int] * 4,
    "decode": [Pointer, Pointer],
}


class Weight(ctypes.Structure):
    """`Weight` of kernels.h. Without `packed` it stands for none."""

    _fields_ = [("packed", Pointer), ("bias", Pointer), ("narrow", Int), ("outputs", Int), ("inputs", Int)]


@dataclass(frozen=True, slots=True, eq=False)
class PackedWeight:
    """A weight as `CpuKernels.linear` reads it, and the bias that goes with it."""

    packed: Tensor
    """Bytes."""
    bias_O: Tensor | None
    weight: Weight
    """Where both are, and the sizes."""


class CpuKernels:
    """Operators on tensors of one dtype in the processor's memory; none is differentiable."""

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        for name, arguments in _ARGUMENTS.items():
            function = getattr(library, name)
            function.argtypes = arguments
            function.restype = Long if name.endswith("_size") else None
        self._library = library
        self._is_bfloat16 = dtype == torch.bfloat16
        self.fastest_inputs: int = library.fastest_inputs()
        """`linear` is fastest where this divides the number of inputs."""

    def takes_inputs_of(self, num_inputs: int) -> bool:
        """Whether `linear` can work on so many inputs: those of bfloat16 are multiplied in pairs."""
        return not self._is_bfloat16 or num_inputs % 2 == 0

    def pack_weight(self, weight_OI: Tensor, bias_O: Tensor | None = None, *, narrow: bool = False) -> PackedWeight:
        """The weight in the order that `linear` reads it.

        Args:
            narrow: in 16 bits for each number, as all of bfloat16 are; every one must be representable in it.
        """
        narrow = narrow or self._is_bfloat16
        num_outputs, num_inputs = weight_OI.shape
        packed = torch.empty(self._library.packed_size(num_outputs, num_inputs, narrow), dtype=torch.uint8)
        weight_OI = weight_OI.contiguous()
        pointers = weight_OI.data_ptr(), packed.data_ptr()
        self._library.pack_weight(*pointers, num_outputs, num_inputs, narrow, torch.get_num_threads())
        bias = None if bias_O is None else bias_O.data_ptr()
        return PackedWeight(packed, bias_O, Weight(packed.data_ptr(), bias, narrow, num_outputs, num_inputs))

    def linear(self, x_MI: Tensor, packed: PackedWeight) -> Tensor:
        """x times the packed weight transposed, plus its bias. A row's result is the same whatever the others are."""
        x_MI = _with_whole_rows(x_MI)
        num_rows = x_MI.shape[0]
        y_MO = x_MI.new_empty(num_rows, packed.weight.outputs)
        pointers = x_MI.data_ptr(), x_MI.stride(0), y_MO.data_ptr()
        self._library.linear(ctypes.byref(packed.weight), *pointers, num_rows, torch.get_num_threads())
        return y_MO

    def add_linear(self, y_MO: Tensor, x_MI: Tensor, packed: PackedWeight, scale: float) -> None:
        """Add scale times the product into `y_MO`, in place."""
        x_MI = _with_whole_rows(x_MI)
        pointers = x_MI.data_ptr(), x_MI.stride(0), y_MO.data_ptr()
        self._library.add_linear(ctypes.byref(packed.weight), *pointers, x_MI.shape[0], scale, torch.get_num_threads())

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x / rms(x) * weight over the last dimension."""
        x = x.contiguous()
        y, width = torch.empty_like(x), x.shape[-1]
        pointers = x.data_ptr(), weight.data_ptr(), y.data_ptr()
        self._library.rms_norm(*pointers, x.numel() // width, width, eps, torch.get_num_threads())
        return y

    def rms_norm_backward(self, grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """The gradient of `rms_norm` in x."""
        grad, x = grad.contiguous(), x.contiguous()
        grad_x, width = torch.empty_like(x), x.shape[-1]
        pointers = grad.data_ptr(), x.data_ptr(), weight.data_ptr(), grad_x.data_ptr()
        self._library.rms_norm_backward(*pointers, x.numel() // width, width, eps, torch.get_num_threads())
        return grad_x

    def swiglu(self, gate_up_MF: Tensor) -> Tensor:
        """silu(gate) * up, the two halves of the last dimension."""
        gate_up_MF = gate_up_MF.contiguous()
        num_rows, width = gate_up_MF.shape[0], gate_up_MF.shape[1] // 2
        y_MF = gate_up_MF.new_empty(num_rows, width)
        self._library.swiglu(gate_up_MF.data_ptr(), y_MF.data_ptr(), num_rows, width, torch.get_num_threads())
        return y_MF

    def swiglu_backward(self, grad_MF: Tensor, gate_up_MF: Tensor) -> Tensor:
        """The gradient of `swiglu` in gate and up, side by side."""
        grad_MF, gate_up_MF = grad_MF.contiguous(), gate_up_MF.contiguous()
        num_rows, width = grad_MF.shape
        grad_gate_up_MF = torch.empty_like(gate_up_MF)
        pointers = grad_MF.data_ptr(), gate_up_MF.data_ptr(), grad_gate_up_MF.data_ptr()
        self._library.swiglu_backward(*pointers, num_rows, width, torch.get_num_threads())
        return grad_gate_up_MF

    def takes_heads_of(self, head_dim: int) -> bool:
        """Whether `rotate` and the kernels of attention can work on heads of this size."""
        return head_dim % _HEAD_DIM_STEP == 0

    def rotate(self, x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
        """`rope.rotate`, for heads that lie side by side in each token."""
        num_tokens, num_heads, head_dim = x_THD.shape
        y_THD = x_THD.new_empty(x_THD.shape)
        pointers = x_THD.data_ptr(), x_THD.stride(0), cos_TD.data_ptr(), sin_TD.data_ptr(), y_THD.data_ptr()
        self._library.rotate(*pointers, num_tokens, num_heads, head_dim, torch.get_num_threads())
        return y_THD

    def new_scratch(self, most_seen: int, head_dim: int) -> Tensor:
        """What the kernels of attention write down about the tokens that a query sees."""
        num_floats = torch.get_num_threads() * self._library.scratch_size(most_seen, head_dim)
        return torch.empty(num_floats, dtype=torch.float32)

    def attend_packed(
        self,
        q_THD: Tensor,
        k_TKD: Tensor,
        v_TKD: Tensor,
        before: tuple[Tensor, Tensor] | None,
        starts_T: Tensor,
        longest: int,
        window: int | None,
    ) -> Tensor:
        """Causal attention of packed sequences, behind shared keys and values (P, K, D) if any. Gives (T, H, D).

        Args:
            starts_T: the first token of each token's sequence.
            longest: tokens of the longest sequence.
        """
        num_tokens, num_heads, head_dim = q_THD.shape
        num_threads = torch.get_num_threads()
        # Named, so that copies made here outlive the call.
        keys_before, values_before = (each.contiguous() for each in before or (k_TKD[:0], v_TKD[:0]))
        num_before = keys_before.shape[0]
        most_seen = num_before + longest
        out_THD = q_THD.new_empty(q_THD.shape)
        scratch = self.new_scratch(most_seen, head_dim)
        new = [argument for x in (q_THD, k_TKD, v_TKD) for argument in (x.data_ptr(), x.stride(0))]
        pointers = [x.data_ptr() for x in (keys_before, values_before, starts_T, out_THD, scratch)]
        sizes = num_tokens, num_heads, k_TKD.shape[1], head_dim, num_before, most_seen
        self._library.attend_packed(*new, *pointers, *sizes, window or most_seen, num_threads)
        return out_THD

    def decode(self, model: Any, step: Any) -> None:
        """One step of a `DecodeKernel`, which lays out both."""
        self._library.decode(model, step)

    def draw(
        self, logits_BV: Tensor, temperatures: Sequence[float], uniforms: Sequence[float], num_drawable: int
    ) -> tuple[Tensor, Tensor]:
        """One of the first `num_drawable` tokens per row of float32 logits, and its log-probability among all.

        The likeliest where the temperature is 0, else where the tempered cumulative probability passes the uniform.
        """
        logits_BV = logits_BV.contiguous()
        num_rows, vocab_size = logits_BV.shape
        tokens, logprobs = torch.empty(num_rows, dtype=torch.int64), torch.empty(num_rows)
        arguments = torch.tensor(temperatures), torch.tensor(uniforms, dtype=torch.float64)
        pointers = [x.data_ptr() for x in (logits_BV, *arguments, tokens, logprobs)]
        self._library.draw(*pointers, num_rows, vocab_size, num_drawable, torch.get_num_threads())
        return tokens, logprobs


def _with_whole_rows(x_MI: Tensor) -> Tensor:
    """`x_MI`, copied unless the numbers of each row lie side by side."""
    return x_MI if x_MI.stride(1) == 1 else x_MI.contiguous()
