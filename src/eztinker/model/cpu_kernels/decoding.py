"""Decode step: one new token per cached sequence through all layers of a model, in one call of the kernels.

B = sequences, H = hidden size, D = head_dim, N = layers, R = rows of the cache, K = key-value heads, S = its capacity.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eztinker.model.cpu_kernels.operators import CpuKernels, Float, Int, PackedWeight, Pointer, Weight

WEIGHTS = ("qkv", "output", "gate_up", "down")
"""The linear layers of a decoder layer, in the order of decode.c."""
NORMS = ("attn_norm", "mlp_norm", "q_norm", "k_norm")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LayerWeights:
    """Weights of one decoder layer."""

    attn_norm: Tensor
    mlp_norm: Tensor
    q_norm: Tensor | None
    k_norm: Tensor | None
    qkv: PackedWeight
    output: PackedWeight
    gate_up: PackedWeight
    down: PackedWeight
    window: int | None


class _LowRank(ctypes.Structure):
    _fields_ = [("a", Weight), ("b", Weight)]


class LowRanks:
    """A and B of an adapter for every weight of every layer in turn, in the order of `WEIGHTS`."""

    def __init__(self, pairs: Sequence[tuple[PackedWeight, PackedWeight] | None]) -> None:
        """Build from A and B for each weight, None for those left alone; `DecodeKernel.low_ranks` checks them first."""
        self._pairs = pairs  # which the pointers lead to
        self.table = (_LowRank * len(pairs))(*(_LowRank(p[0].weight, p[1].weight) if p else _LowRank() for p in pairs))
        self.greatest_rank = max((pair[0].weight.outputs for pair in pairs if pair), default=0)


@dataclass(frozen=True, slots=True, eq=False)
class AdaptedRows:
    """An adapter and the rows that it changes."""

    low_ranks: LowRanks
    scale: float
    rows: Tensor | None
    """Row indices in ascending order; None means all rows."""


class _LayerStruct(ctypes.Structure):
    _fields_ = [
        *((name, Weight) for name in WEIGHTS),
        *((name, Pointer) for name in NORMS),
        ("window", Int),
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        ("layers", ctypes.POINTER(_LayerStruct)),
        *((name, Int) for name in ("num_layers", "heads", "kv_heads", "dim")),
        ("eps", Float),
    ]


class _AdaptedRows(ctypes.Structure):
    _fields_ = [("low_ranks", ctypes.POINTER(_LowRank)), ("rows", Pointer), ("num_rows", Int), ("scale", Float)]


class _Step(ctypes.Structure):
    _fields_ = [
        *((name, Pointer) for name in ("normed", "qkv", "rotated", "attended", "gate_up", "gated", "update")),
        *((name, Pointer) for name in ("adapter_inputs", "adapter_outputs", "low_rank_hidden", "scratch")),
        *((name, Pointer) for name in ("x", "cos", "sin", "keys", "values", "positions")),
        ("adapted", ctypes.POINTER(_AdaptedRows)),
        *((name, Int) for name in ("num_adapted", "rows", "cache_rows", "capacity", "threads")),
    ]


_NO_WINDOW = 2**31 - 1
"""Sliding window of layers that have none."""


class DecodeKernel:
    """The decoder layers of one model, as the compiled `decode` takes them."""

    def __init__(
        self, kernels: CpuKernels, layers: Sequence[LayerWeights], *, num_heads: int, num_kv_heads: int, eps: float
    ) -> None:
        """Lay the model out for the kernel; all heads are of the same size.

        Raises:
            ValueError: weights do not fit each other.
        """
        self._kernels = kernels
        self._tensors = layers  # which the pointers lead to
        self._layers = (_LayerStruct * len(layers))(*map(_layer, layers))
        first = layers[0]
        head_dim = first.output.weight.inputs // num_heads
        for index, layer in enumerate(layers):
            _check_sizes(kernels, index, layer, first.qkv.weight.inputs, num_heads, num_kv_heads)
        self._model = _Model(self._layers, len(layers), num_heads, num_kv_heads, head_dim, eps)
        weights = [getattr(first, name).weight for name in WEIGHTS]
        self._widths = {
            "normed": first.qkv.weight.inputs,
            "qkv": first.qkv.weight.outputs,
            "rotated": first.qkv.weight.outputs,
            "attended": first.output.weight.inputs,
            "gate_up": first.gate_up.weight.outputs,
            "gated": first.down.weight.inputs,
            "update": first.qkv.weight.inputs,
            "adapter_inputs": max(weight.inputs for weight in weights),
            "adapter_outputs": max(weight.outputs for weight in weights),
        }
        """Row width of each intermediate buffer, in scalars."""

    def low_ranks(self, pairs: Sequence[tuple[PackedWeight, PackedWeight] | None]) -> LowRanks:
        """Check an adapter's A and B for each weight of each layer in turn, and lay them out for `append`.

        Raises:
            ValueError: it was made for other weights.
        """
        weights = [getattr(layer, name).weight for layer in self._tensors for name in WEIGHTS]
        for weight, pair in zip(weights, pairs, strict=True):
            if pair and not _fits(weight, *pair):
                raise ValueError(f"An adapter does not fit a weight of {weight.outputs} x {weight.inputs}")
        return LowRanks(pairs)

    def append(
        self,
        x_BH: Tensor,
        cos_BD: Tensor,
        sin_BD: Tensor,
        keys_NRKSD: Tensor,
        values_NRKSD: Tensor,
        positions_B: Tensor,
        adapted: Sequence[AdaptedRows],
    ) -> None:
        """Turn embeddings into hidden states, in place, and append keys and values to the cache's first rows.

        Args:
            cos_BD, sin_BD: of the positions, as `CpuKernels.rotate` takes them.
            positions_B: where each row's token goes.
        """
        num_rows, num_threads, capacity = x_BH.shape[0], torch.get_num_threads(), keys_NRKSD.shape[3]
        self._check(x_BH, (cos_BD, sin_BD), (keys_NRKSD, values_NRKSD), positions_B)
        widths = {**self._widths, "low_rank_hidden": max((each.low_ranks.greatest_rank for each in adapted), default=0)}
        buffers = {name: x_BH.new_empty(num_rows, width) for name, width in widths.items()}
        buffers["scratch"] = self._kernels.new_scratch(capacity, self._model.dim)
        step = _Step(
            **{name: buffer.data_ptr() for name, buffer in buffers.items()},
            x=x_BH.data_ptr(),
            cos=cos_BD.data_ptr(),
            sin=sin_BD.data_ptr(),
            keys=keys_NRKSD.data_ptr(),
            values=values_NRKSD.data_ptr(),
            positions=positions_B.data_ptr(),
            adapted=(_AdaptedRows * len(adapted))(*map(_adapted_rows, adapted)),
            num_adapted=len(adapted),
            rows=num_rows,
            cache_rows=keys_NRKSD.shape[1],
            capacity=capacity,
            threads=num_threads,
        )
        self._kernels.decode(ctypes.byref(self._model), ctypes.byref(step))

    def _check(
        self,
        x_BH: Tensor,
        cos_sin: tuple[Tensor, Tensor],
        cache: tuple[Tensor, Tensor],
        positions_B: Tensor,
    ) -> None:
        """Check that the step's tensors have the sizes that the kernel assumes."""
        model, num_rows = self._model, x_BH.shape[0]
        _, cache_rows, _, capacity, _ = cache[0].shape
        self._kernels.check("hidden states", x_BH, (num_rows, self._widths["normed"]))
        for each in cos_sin:
            self._kernels.check("rotation", each, (num_rows, model.dim))
        for each in cache:
            self._kernels.check("cache", each, (model.num_layers, cache_rows, model.kv_heads, capacity, model.dim))
        if num_rows > cache_rows or positions_B.shape != (num_rows,) or positions_B.dtype != torch.int64:
            raise ValueError(f"{num_rows} sequences need as many rows of the cache and int64 positions")
        if num_rows and not 0 <= int(positions_B.min()) <= int(positions_B.max()) < capacity:
            raise ValueError(f"The cache has {capacity} positions, but {int(positions_B.max())} is to be written")
        tensors = (x_BH, *cos_sin, *cache, positions_B)
        assert all(each.is_contiguous() for each in tensors), "the kernel reads whole tensors"


def _check_sizes(
    kernels: CpuKernels, index: int, layer: LayerWeights, hidden_size: int, num_heads: int, num_kv_heads: int
) -> None:
    """Check that a layer's weights fit each other: the kernel computes addresses from these sizes.

    Raises:
        ValueError: they do not.
    """
    head_dim, rest = divmod(layer.output.weight.inputs, num_heads)
    wanted = {
        "qkv": ((num_heads + 2 * num_kv_heads) * head_dim, hidden_size),
        "output": (hidden_size, num_heads * head_dim),
        "gate_up": (2 * layer.down.weight.inputs, hidden_size),
        "down": (hidden_size, layer.down.weight.inputs),
    }
    found = {name: (getattr(layer, name).weight.outputs, getattr(layer, name).weight.inputs) for name in WEIGHTS}
    if rest or num_heads % num_kv_heads or found != wanted:
        raise ValueError(
            f"The weights of layer {index} do not fit {num_heads} heads and {num_kv_heads} key-value heads: they are "
            f"{found}, and would have to be {wanted}"
        )
    for name in NORMS:
        norm, width = getattr(layer, name), head_dim if name in ("q_norm", "k_norm") else hidden_size
        if norm is not None:
            kernels.check(f"{name} of layer {index}", norm, (width,))


def _fits(weight: Weight, a: PackedWeight, b: PackedWeight) -> bool:
    outputs_of_a, inputs_of_a = a.weight.outputs, a.weight.inputs
    return (b.weight.outputs, b.weight.inputs, inputs_of_a) == (weight.outputs, outputs_of_a, weight.inputs)


def _layer(layer: LayerWeights) -> _LayerStruct:
    weights = {name: getattr(layer, name).weight for name in WEIGHTS}
    norms = {name: getattr(layer, name) for name in NORMS}
    pointers = {name: None if norm is None else norm.data_ptr() for name, norm in norms.items()}
    return _LayerStruct(**weights, **pointers, window=layer.window or _NO_WINDOW)


def _adapted_rows(adapted: AdaptedRows) -> _AdaptedRows:
    rows = adapted.rows
    pointer, num_rows = (None, 0) if rows is None else (rows.data_ptr(), rows.shape[0])
    return _AdaptedRows(adapted.low_ranks.table, pointer, num_rows, adapted.scale)
