"""LoRA adapters: low-rank changes to a frozen decoder, kept in one flat float32 buffer each.

The buffer makes the optimizer, clipping, snapshots and roll-back single operations on one tensor. Its views are the
factors: per fused weight one stacked A, and one B per projection. Source: Hu et al. 2021, arXiv:2106.09685.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eztinker.errors import InvalidInput
from eztinker.model.cpu_kernels import PackedWeight
from eztinker.model.device import kernels_for
from eztinker.model.linear import LowRankDelta, PackedFactors
from eztinker.model_files.decoder_config import DecoderConfig
from eztinker.types import LoraSpec

HEAD = "lm_head"


@dataclass(frozen=True, slots=True)
class FusedShape:
    """Shape and names of one fused weight, as adapters see it."""

    key: str
    """The decoder's name for it, such as `layers.0.qkv`."""
    modules: tuple[str, ...]
    """The model file's names of the projections fused into it."""
    num_inputs: int
    widths: tuple[int, ...]
    """Outputs of each projection."""


def adapted_shapes(config: DecoderConfig, lora: LoraSpec) -> list[FusedShape]:
    """The fused weights that `lora` trains, in the order of the flat buffer."""
    d, f = config.hidden_size, config.intermediate_size
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    shapes = []
    for layer in range(config.num_layers):
        attn, mlp = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
        if lora.train_attn:
            qkv = tuple(f"{attn}.{name}_proj" for name in "qkv")
            shapes.append(FusedShape(f"layers.{layer}.qkv", qkv, d, (q, kv, kv)))
            shapes.append(FusedShape(f"layers.{layer}.o", (f"{attn}.o_proj",), q, (d,)))
        if lora.train_mlp:
            gate_up = (f"{mlp}.gate_proj", f"{mlp}.up_proj")
            shapes.append(FusedShape(f"layers.{layer}.gate_up", gate_up, d, (f, f)))
            shapes.append(FusedShape(f"layers.{layer}.down", (f"{mlp}.down_proj",), f, (d,)))
    if lora.train_unembed:
        shapes.append(FusedShape(HEAD, (HEAD,), d, (config.vocab_size,)))
    return shapes


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """A of every projection of one fused weight, (projections * r, I), and their Bs, each (width, r)."""

    a: Tensor
    bs: tuple[Tensor, ...]


class LowRankAdapter:
    """A and B for some of the decoder's fused weights: all that applying an adapter takes."""

    def __init__(
        self,
        factors: Mapping[str, Factors],
        scale: float,
        *,
        in_float32: bool = False,
        packed: Mapping[str, PackedFactors] | None = None,
        packed_head_a: PackedWeight | None = None,
    ) -> None:
        self.factors = factors
        self.scale = scale
        self._in_float32 = in_float32
        self.packed = packed or {}
        """A and B of every fused weight as EZTinker's own kernels read them, if these are to be used."""
        self.packed_head_a = packed_head_a
        """A of the head, transposed, in float32: an adapter of a tied head changes the embedding too."""

    def delta(self, key: str, rows: Tensor | None) -> LowRankDelta | None:
        """This adapter's low-rank update of the fused weight `key` on `rows`; None where there is none."""
        factors = self.factors.get(key)
        if factors is None:
            return None
        return LowRankDelta(factors.a, factors.bs, self.scale, rows, self._in_float32, self.packed.get(key))


class Adapter(LowRankAdapter):
    """An adapter that can be trained, saved and loaded; its factors are views of `flat`."""

    def __init__(self, config: DecoderConfig, lora: LoraSpec, flat: Tensor) -> None:
        self.lora = lora
        self.flat = flat
        self._shapes = adapted_shapes(config, lora)
        factors = {shape.key: factors for shape, factors in _views(flat, self._shapes, lora.rank)}
        super().__init__(factors, lora.alpha / lora.rank)

    @classmethod
    def new(cls, config: DecoderConfig, lora: LoraSpec, device: torch.device) -> Adapter:
        """A fresh adapter: A uniform in +-1/sqrt(inputs) from the seed, B zero, so the base model is unchanged."""
        shapes = adapted_shapes(config, lora)
        flat = torch.zeros(_num_params(shapes, lora.rank))
        generator = torch.Generator().manual_seed(lora.seed)
        for shape, factors in _views(flat, shapes, lora.rank):
            bound = 1 / math.sqrt(shape.num_inputs)
            factors.a.uniform_(-bound, bound, generator=generator)
        return cls(config, lora, flat.to(device))

    def for_sampling(self, dtype: torch.dtype) -> LowRankAdapter:
        """A copy that never changes, for a base model of `dtype`, with one B per fused weight: the fewest products."""
        with torch.no_grad():
            fused = {
                key: Factors(factors.a.clone(), (torch.block_diag(*factors.bs),))
                for key, factors in self.factors.items()
            }
        kernels = kernels_for(dtype, self.flat.device)
        packed = {
            key: PackedFactors(kernels, each.a, each.bs[0], dtype) for key, each in fused.items() if kernels is not None
        }
        head, float32_kernels = fused.get(HEAD), kernels_for(torch.float32, self.flat.device)
        packed_head_a = float32_kernels.pack_weight(head.a.T) if head and float32_kernels else None
        return LowRankAdapter(fused, self.scale, in_float32=True, packed=packed, packed_head_a=packed_head_a)

    def require_grad(self, grads: Tensor) -> None:
        """Make backward passes add this adapter's gradient into `grads`, a flat buffer like `flat`."""
        self.factors = {
            shape.key: _leaves(factors, gradients)
            for (shape, factors), (_, gradients) in zip(
                _views(self.flat, self._shapes, self.lora.rank),
                _views(grads, self._shapes, self.lora.rank),
                strict=True,
            )
        }

    def named_arrays(self, flat: Tensor | None = None) -> dict[str, np.ndarray]:
        """Every factor under its name in the model file, float32; of another buffer laid out alike, if given."""
        arrays = {}
        for name, view in self._named_views(self.flat if flat is None else flat):
            arrays[name] = np.array(view.detach().float().cpu().numpy())
        return arrays

    def fill(self, arrays: Mapping[str, np.ndarray], flat: Tensor | None = None) -> None:
        """Copy factors by name into this adapter, or into another buffer laid out alike.

        Raises:
            InvalidInput: a factor is missing, unknown or of another shape.
        """
        expected = dict(self._named_views(self.flat if flat is None else flat))
        if expected.keys() != arrays.keys():
            odd = sorted(expected.keys() ^ arrays.keys())
            raise InvalidInput(
                f"The adapter's weights do not fit this model and LoRA shape; first difference: {odd[0]}"
            )
        with torch.no_grad():
            for name, view in expected.items():
                array = arrays[name]
                if tuple(view.shape) != array.shape:
                    raise InvalidInput(f"{name} must have shape {tuple(view.shape)}, got {array.shape}")
                view.copy_(torch.from_numpy(array))

    def _named_views(self, flat: Tensor) -> Iterator[tuple[str, Tensor]]:
        rank = self.lora.rank
        for shape, factors in _views(flat, self._shapes, rank):
            for index, module in enumerate(shape.modules):
                yield f"{module}.lora_A.weight", factors.a[index * rank : (index + 1) * rank]
                yield f"{module}.lora_B.weight", factors.bs[index]


def _views(flat: Tensor, shapes: Sequence[FusedShape], rank: int) -> Iterator[tuple[FusedShape, Factors]]:
    """The factors of every fused weight as views of `flat`, one after another."""
    start = 0

    def take(rows: int, columns: int) -> Tensor:
        nonlocal start
        view = flat[start : start + rows * columns].view(rows, columns)
        start += rows * columns
        return view

    for shape in shapes:
        a = take(len(shape.widths) * rank, shape.num_inputs)
        yield shape, Factors(a, tuple(take(width, rank) for width in shape.widths))


def _num_params(shapes: Sequence[FusedShape], rank: int) -> int:
    return sum(rank * (len(shape.widths) * shape.num_inputs + sum(shape.widths)) for shape in shapes)


def _leaves(factors: Factors, gradients: Factors) -> Factors:
    def leaf(view: Tensor, gradient: Tensor) -> Tensor:
        parameter = view.detach().requires_grad_()
        parameter.grad = gradient
        return parameter

    bs = tuple(leaf(b, gradient) for b, gradient in zip(factors.bs, gradients.bs, strict=True))
    return Factors(leaf(factors.a, gradients.a), bs)


def adapter_rows(
    adapters: Sequence[LowRankAdapter | None], device: torch.device
) -> list[tuple[LowRankAdapter, Tensor | None]]:
    """Group the rows of a batch by adapter, given the adapter of every row; None rows use the base model alone."""
    distinct = {id(adapter): adapter for adapter in adapters if adapter is not None}
    if len(distinct) == 1 and None not in adapters:
        return [(next(iter(distinct.values())), None)]
    return [
        (adapter, torch.tensor([row for row, each in enumerate(adapters) if each is adapter], device=device))
        for adapter in distinct.values()
    ]
