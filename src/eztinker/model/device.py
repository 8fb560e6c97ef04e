"""Hardware choices, all in one place: which device, which dtype, how many threads, which kernels."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from eztinker.errors import ConfigError
from eztinker.model.cpu_kernels import (
    CpuKernels,
    PackedWeight,
    cpu_kernels,
    kernel_failures,
    kernels_name,
    processor_flags,
)

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def choose_device(name: str) -> torch.device:
    """The device called `name`; "auto" takes CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: the machine does not have it.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, present in available.items() if present))
    device = torch.device(name)
    if not available.get(device.type, False):
        present = ", ".join(kind for kind, found in available.items() if found)
        raise ConfigError(f"The device {name!r} is not available on this machine; available: {present}")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of the base weights; "auto" takes bfloat16 where the hardware multiplies it fast, else float32."""
    if name != "auto":
        return DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    # oneDNN also *emulates* bf16 on older processors, more slowly than it multiplies float32.
    has_instructions = bool(processor_flags() & {"avx512_bf16", "amx_bf16", "bf16"})
    fast = device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported() and has_instructions
    return torch.bfloat16 if fast else torch.float32


def set_up_cpu(num_threads: int | None) -> int:
    """Prepare this process for computing; gives the number of torch's threads, by default the physical cores.

    They are never more than the processors this process may use: each kernel would wait for a thread that cannot run.
    """
    _keep_freed_memory()
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(min(num_threads or torch.get_num_threads(), available))
    return torch.get_num_threads()


def _keep_freed_memory() -> None:
    """Tell glibc not to hand freed memory back: fetching it anew, page by page, costs more than most kernels on it."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return  # another C library, which has no such switch
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    mallopt(trim_threshold, 1 << 30)
    mallopt(mmap_threshold, 1 << 30)
    mallopt(top_pad, 64 << 20)


class Matmul(Protocol):
    """Product with one frozen weight: x (M, in) to x W^T + bias (M, out). Not differentiable."""

    def __call__(self, x: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True, eq=False)
class KernelMatmul:
    """A `Matmul` by EZTinker's own kernel."""

    kernels: CpuKernels
    packed: PackedWeight

    def __call__(self, x: Tensor) -> Tensor:
        return self.kernels.linear(x, self.packed)


def kernels_for(dtype: torch.dtype, device: torch.device) -> CpuKernels | None:
    """EZTinker's own operators for tensors of this dtype and device, or None where there are none."""
    return cpu_kernels(dtype) if device.type == "cpu" else None


def kernels_text(dtype: torch.dtype, device: torch.device) -> str:
    """Instruction sets of EZTinker's own kernels for a model of `dtype` and for its logits, or "none: " and why."""
    if device.type != "cpu":
        return f"none: they are for CPUs, not for {device.type}"
    model, logits = kernels_name(dtype), kernels_name(torch.float32)
    return model if model == logits else f"{model}; for logits {logits}"


def kernels_missed(dtype: torch.dtype, device: torch.device) -> list[str]:
    """Why faster instructions than those of `kernels_text` are not used, a sentence for each that failed."""
    if device.type != "cpu":
        return []
    return list(dict.fromkeys(kernel_failures(dtype) + kernel_failures(torch.float32)))


def own_kernels(x: Tensor) -> CpuKernels | None:
    """EZTinker's own operators for tensors like `x`, or None where there are none."""
    return kernels_for(x.dtype, x.device)


def is_batch_invariant(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether what a model of `dtype` computes for a sequence never depends on its batch neighbours.

    It takes our own kernels for the model's numbers and for logits, which are always float32.
    """
    return all(kernels_for(each, device) is not None for each in (dtype, torch.float32))


def fits_bfloat16(weight: Tensor) -> bool:
    """Whether bfloat16 holds every value exactly, as in models published in it, whatever dtype they are read as."""
    return weight.dtype == torch.bfloat16 or torch.equal(weight.bfloat16().to(weight.dtype), weight)


def fastest_matmul(weight: Tensor, bias: Tensor | None = None) -> Matmul:
    """The fastest product with a frozen weight, which is packed once in the order the kernel reads it.

    oneDNN's pre-packed weights gain 1.1 to 3 times on a CPU over plain ones, our own kernel another 1.3 times for few
    rows. oneDNN's operators are private to torch, so anything unexpected falls back to the public one.
    """
    kernels = own_kernels(weight)
    if kernels is not None:
        return KernelMatmul(kernels, kernels.pack_weight(weight, bias, narrow=fits_bfloat16(weight)))
    if weight.device.type == "cpu":
        try:
            packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
            multiply = torch.ops.mkldnn._linear_pointwise.default
            multiply(weight.new_zeros(1, weight.shape[1]), packed, bias, "none", [], "")
        except (AttributeError, RuntimeError):
            pass
        else:
            return lambda x: multiply(x, packed, bias, "none", [], "")
    return lambda x: functional.linear(x, weight, bias)


LONGEST_PLAIN_ATTENTION = 1024
"""Number of keys beyond which kept probabilities would outweigh the layer's other activations."""


def prefers_plain_attention(device: torch.device, num_keys: int) -> bool:
    """Whether attention by batched products beats the fused kernel: on CPUs, up to fine-tuning lengths."""
    return device.type == "cpu" and num_keys <= LONGEST_PLAIN_ATTENTION
