"""The compiled kernels as operators on tensors."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
    "normalize": [Pointer] * 4 + [Int] * 4,
    "decode": [Pointer, Pointer],
}


class Weight(ctypes.Structure):
    """C struct `Weight` of kernels.h. Without `packed` it stands for no weight."""

    _fields_ = [("packed", Pointer), ("bias", Pointer), ("narrow", Int), ("outputs", Int), ("inputs", Int)]


@dataclass(frozen=True, slots=True, eq=False)
class PackedWeight:
    """A weight as `CpuKernels.linear` reads it, and the bias that goes with it."""

    packed: Tensor
    """The weight's bytes in the kernel's order."""
    bias_O: Tensor | None
    weight: Weight
    """C struct with the addresses of both, and the sizes."""


class CpuKernels:
    """Operators on tensors of one dtype in the processor's memory; none is differentiable."""

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        for name, arguments in _ARGUMENTS.items():
            function = getattr(library, name)
            function.argtypes = arguments
            function.restype = Long if name.endswith("_size") else None
        self._library = library
        self._dtype = dtype
        self.input_multiple: int = library.input_multiple()
        """The divisor of the number of inputs with which `linear` is fastest."""

    def pack_weight(self, weight_OI: Tensor, bias_O: Tensor | None = None, *, narrow: bool = False) -> PackedWeight:
        """Pack a weight in the order that `linear` reads it.

        Args:
            narrow: keep 16 bits of each scalar, as bfloat16 always does; every one must be representable in it.
        """
        narrow = narrow or self._dtype == torch.bfloat16
        num_outputs, num_inputs = weight_OI.shape
        self.check("weight", weight_OI, (num_outputs, num_inputs))
        if bias_O is not None:
            self.check("bias", bias_O, (num_outputs,))
            bias_O = bias_O.contiguous()
        packed = torch.empty(self._library.packed_size(num_outputs, num_inputs, narrow), dtype=torch.uint8)
        weight_OI = weight_OI.contiguous()
        pointers = weight_OI.data_ptr(), packed.data_ptr()
        self._library.pack_weight(*pointers, num_outputs, num_inputs, narrow, torch.get_num_threads())
        bias = None if bias_O is None else bias_O.data_ptr()
        return PackedWeight(packed, bias_O, Weight(packed.data_ptr(), bias, narrow, num_outputs, num_inputs))

    def linear(self, x_MI: Tensor, packed: PackedWeight) -> Tensor:
        """x times the packed weight transposed, plus its bias. A row's result is the same whatever the others are."""
        num_rows = x_MI.shape[0]
        self.check("input", x_MI, (num_rows, packed.weight.inputs))
        x_MI = _with_whole_rows(x_MI)
        y_MO = x_MI.new_empty(num_rows, packed.weight.outputs)
        pointers = x_MI.data_ptr(), x_MI.stride(0), y_MO.data_ptr()
        self._library.linear(ctypes.byref(packed.weight), *pointers, num_rows, torch.get_num_threads())
        return y_MO

    def add_linear(self, y_MO: Tensor, x_MI: Tensor, packed: PackedWeight, scale: float) -> None:
        """Add scale times the product into `y_MO`, in place."""
        self.check("input", x_MI, (x_MI.shape[0], packed.weight.inputs))
        self.check("output", y_MO, (x_MI.shape[0], packed.weight.outputs))
        assert y_MO.is_contiguous(), "a product is added to whole rows that lie side by side"
        x_MI = _with_whole_rows(x_MI)
        pointers = x_MI.data_ptr(), x_MI.stride(0), y_MO.data_ptr()
        self._library.add_linear(ctypes.byref(packed.weight), *pointers, x_MI.shape[0], scale, torch.get_num_threads())

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x / rms(x) * weight over the last dimension."""
        self.check("norm's input", x, x.shape)
        self.check("norm's weight", weight, (x.shape[-1],))
        x = x.contiguous()
        y, width = torch.empty_like(x), x.shape[-1]
        pointers = x.data_ptr(), weight.data_ptr(), y.data_ptr()
        self._library.rms_norm(*pointers, x.numel() // width, width, eps, torch.get_num_threads())
        return y

    def rms_norm_backward(self, grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """The gradient of `rms_norm` in x."""
        self.check("norm's input", x, x.shape)
        self.check("norm's gradient", grad, x.shape)
        self.check("norm's weight", weight, (x.shape[-1],))
        grad, x = grad.contiguous(), x.contiguous()
        grad_x, width = torch.empty_like(x), x.shape[-1]
        pointers = grad.data_ptr(), x.data_ptr(), weight.data_ptr(), grad_x.data_ptr()
        self._library.rms_norm_backward(*pointers, x.numel() // width, width, eps, torch.get_num_threads())
        return grad_x

    def swiglu(self, gate_up_MF: Tensor) -> Tensor:
        """silu(gate) * up, the two halves of the last dimension."""
        num_rows, width = gate_up_MF.shape[0], gate_up_MF.shape[1] // 2
        self.check("gate and up", gate_up_MF, (num_rows, 2 * width))
        gate_up_MF = gate_up_MF.contiguous()
        y_MF = gate_up_MF.new_empty(num_rows, width)
        self._library.swiglu(gate_up_MF.data_ptr(), y_MF.data_ptr(), num_rows, width, torch.get_num_threads())
        return y_MF

    def swiglu_backward(self, grad_MF: Tensor, gate_up_MF: Tensor) -> Tensor:
        """The gradient of `swiglu` in gate and up, side by side."""
        num_rows, width = grad_MF.shape
        self.check("gradient", grad_MF, (num_rows, width))
        self.check("gate and up", gate_up_MF, (num_rows, 2 * width))
        grad_MF, gate_up_MF = grad_MF.contiguous(), gate_up_MF.contiguous()
        grad_gate_up_MF = torch.empty_like(gate_up_MF)
        pointers = grad_MF.data_ptr(), gate_up_MF.data_ptr(), grad_gate_up_MF.data_ptr()
        self._library.swiglu_backward(*pointers, num_rows, width, torch.get_num_threads())
        return grad_gate_up_MF

    def rotate(self, x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
        """`rope.rotate`, for heads that lie side by side in each token."""
        num_tokens, num_heads, head_dim = x_THD.shape
        if head_dim % 2:
            raise ValueError(f"Heads of {head_dim} channels cannot be rotated: channels turn in pairs")
        self._check_heads("heads", x_THD, (num_tokens, num_heads, head_dim))
        self.check("cosines", cos_TD, (num_tokens, head_dim))
        self.check("sines", sin_TD, (num_tokens, head_dim))
        cos_TD, sin_TD = cos_TD.contiguous(), sin_TD.contiguous()
        y_THD = x_THD.new_empty(x_THD.shape)
        pointers = x_THD.data_ptr(), x_THD.stride(0), cos_TD.data_ptr(), sin_TD.data_ptr(), y_THD.data_ptr()
        self._library.rotate(*pointers, num_tokens, num_heads, head_dim, torch.get_num_threads())
        return y_THD

    def new_scratch(self, max_visible: int, head_dim: int) -> Tensor:
        """Scratch memory for the attention kernels, for queries that see up to `max_visible` tokens."""
        num_floats = torch.get_num_threads() * self._library.scratch_size(max_visible, head_dim)
        return torch.empty(num_floats, dtype=torch.float32)

    def attend_packed(
        self,
        q_THD: Tensor,
        k_TKD: Tensor,
        v_TKD: Tensor,
        prefix: tuple[Tensor, Tensor] | None,
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
        num_kv_heads = k_TKD.shape[1]
        if num_heads % num_kv_heads:
            raise ValueError(f"{num_heads} query heads cannot share {num_kv_heads} key-value heads evenly")
        self._check_heads("queries", q_THD, (num_tokens, num_heads, head_dim))
        self._check_heads("keys", k_TKD, (num_tokens, num_kv_heads, head_dim))
        self._check_heads("values", v_TKD, (num_tokens, num_kv_heads, head_dim))
        num_threads = torch.get_num_threads()
        # Named, so that copies made here outlive the call.
        prefix_keys, prefix_values = (each.contiguous() for each in prefix or (k_TKD[:0], v_TKD[:0]))
        num_prefix = prefix_keys.shape[0]
        for each in (prefix_keys, prefix_values):
            self.check("prefix", each, (num_prefix, num_kv_heads, head_dim))
        starts_T = starts_T.contiguous()
        if starts_T.dtype != torch.int64 or starts_T.shape != (num_tokens,):
            raise ValueError(f"{num_tokens} tokens need as many int64 starts, got {tuple(starts_T.shape)}")
        max_visible = num_prefix + longest
        out_THD = q_THD.new_empty(q_THD.shape)
        scratch = self.new_scratch(max_visible, head_dim)
        new = [argument for x in (q_THD, k_TKD, v_TKD) for argument in (x.data_ptr(), x.stride(0))]
        pointers = [x.data_ptr() for x in (prefix_keys, prefix_values, starts_T, out_THD, scratch)]
        sizes = num_tokens, num_heads, num_kv_heads, head_dim, num_prefix, max_visible
        self._library.attend_packed(*new, *pointers, *sizes, window or max_visible, num_threads)
        return out_THD

    def decode(self, model: Any, step: Any) -> None:
        """Run one step of a `DecodeKernel`, which lays out both."""
        self._library.decode(model, step)

    def draw(
        self, logits_BV: Tensor, temperatures: Sequence[float], uniforms: Sequence[float], num_drawable: int
    ) -> tuple[Tensor, Tensor]:
        """Sample one of the first `num_drawable` tokens per row of float32 logits; gives it and its logprob among all.

        It is the argmax where the temperature is 0, else where the tempered cumulative probability passes the uniform.
        """
        logits_BV, num_rows = _rows_of_logits(logits_BV, num_drawable, temperatures, uniforms)
        tokens, logprobs = torch.empty(num_rows, dtype=torch.int64), torch.empty(num_rows)
        arguments = torch.tensor(temperatures), torch.tensor(uniforms, dtype=torch.float64)
        pointers = [x.data_ptr() for x in (logits_BV, *arguments, tokens, logprobs)]
        self._library.draw(*pointers, num_rows, logits_BV.shape[1], num_drawable, torch.get_num_threads())
        return tokens, logprobs

    def normalize(self, logits_BV: Tensor, temperatures: Sequence[float], num_drawable: int) -> tuple[Tensor, Tensor]:
        """Row maxima and log sums: (logit - max) / temperature - log sum is a logprob, to the bit that of `draw`.

        Temperatures are above 0.
        """
        logits_BV, num_rows = _rows_of_logits(logits_BV, num_drawable, temperatures)
        greatest_B, log_totals_B, tempering_B = *torch.empty(2, num_rows), torch.tensor(temperatures)
        pointers = [x.data_ptr() for x in (logits_BV, tempering_B, greatest_B, log_totals_B)]
        self._library.normalize(*pointers, num_rows, logits_BV.shape[1], num_drawable, torch.get_num_threads())
        return greatest_B, log_totals_B

    def check(self, name: str, x: Tensor, shape: Sequence[int]) -> None:
        """Raise ValueError unless `x` is as the kernels will read it: they trust the shapes they are told."""
        if tuple(x.shape) != tuple(shape) or x.dtype != self._dtype or x.device.type != "cpu":
            raise ValueError(
                f"The {name} must be {_kind(self._dtype)} of shape {tuple(shape)} in the processor's memory, "
                f"not {_kind(x.dtype)} of shape {tuple(x.shape)} on {x.device}"
            )

    def _check_heads(self, name: str, x: Tensor, shape: Sequence[int]) -> None:
        self.check(name, x, shape)
        wanted = {1: x.shape[2], 2: 1}
        if x.numel() and any(x.stride(dim) != stride for dim, stride in wanted.items() if x.shape[dim] > 1):
            raise ValueError(f"The {name} of a token must lie side by side, not {x.stride()[1:]} numbers apart")


def _rows_of_logits(logits_BV: Tensor, num_drawable: int, *per_row: Sequence[float]) -> tuple[Tensor, int]:
    """Check logits and give them as `draw` reads them, with the number of rows."""
    num_rows, vocab_size = logits_BV.shape
    if logits_BV.dtype != torch.float32 or logits_BV.device.type != "cpu":
        raise ValueError(f"Logits must be float32 in the processor's memory, not {_kind(logits_BV.dtype)}")
    if not 0 < num_drawable <= vocab_size:
        raise ValueError(f"Between 1 and all {vocab_size} tokens can be drawable, not {num_drawable}")
    if any(len(each) != num_rows for each in per_row):
        raise ValueError(f"{num_rows} rows of logits need as many temperatures and uniforms")
    return logits_BV.contiguous(), num_rows


def _kind(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _with_whole_rows(x_MI: Tensor) -> Tensor:
    """`x_MI`, copied unless each row is contiguous."""
    return x_MI if x_MI.stride(1) == 1 else x_MI.contiguous()
