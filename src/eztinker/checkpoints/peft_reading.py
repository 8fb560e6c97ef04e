"""Import of PEFT folders from other programs, with a check of every name, shape and number."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from eztinker.checkpoints.peft import CONFIG, EMBEDDING, HEAD, PREFIX, UNEMBEDDING, WEIGHTS
from eztinker.checkpoints.peft_config import PeftConfig, read_peft_config
from eztinker.errors import InvalidInput, Unsupported
from eztinker.float_tensors import as_float32, load_float32, to_bfloat16_bits
from eztinker.types import LORA_ALPHA, LoraSpec

Arrays = dict[str, np.ndarray]

MAX_HEADER_BYTES = 1 << 20
"""Longest header of the weights file: ten times that of an adapter on every weight of a 70B model."""
_HEADER_LENGTH = struct.Struct("<Q")
"""Length of the header, at the start of a safetensors file."""
ATTENTION_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


class BaseWeights(Protocol):
    """The base model that an adapter is for."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every weight by name."""
        ...

    @property
    def head_is_tied(self) -> bool:
        """Whether the head is tied to the embedding."""
        ...

    def read(self, name: str) -> np.ndarray:
        """One weight as a float32 array."""
        ...


def read_peft(parts: Mapping[str, bytes], base: BaseWeights) -> tuple[Arrays, LoraSpec]:
    """Factors, float32 by our names, and the shape of the adapter in a PEFT folder.

    The folder's scale is multiplied into the Bs, since ours is fixed. A module without factors in the folder gets
    zeros, which change nothing and, having no gradient, never will.

    Args:
        parts: the folder's two files by name.
    Raises:
        InvalidInput: a file cannot be read, or a name, shape or number does not fit the base model.
        Unsupported: the adapter is no plain LoRA.
    """
    config = read_peft_config(parts[CONFIG])
    named = _read_weights(parts[WEIGHTS])
    _drop_base_weights(named, base)
    _check_targets(named, config)
    given = {name.replace(UNEMBEDDING, HEAD): array for name, array in named.items()}
    if base.head_is_tied:
        _untie(given, is_shared=config.ties_head or given.keys() != named.keys())
    modules = _adaptable_modules(base.shapes)
    _check_factors(given, config.rank, modules)
    lora = LoraSpec(
        rank=config.rank,
        seed=0,
        train_attn=_touches(given, ATTENTION_PROJECTIONS),
        train_mlp=_touches(given, MLP_PROJECTIONS),
        train_unembed=_touches(given, (HEAD,)),
    )
    return _complete(given, lora, modules, np.float32(config.scale * config.rank / LORA_ALPHA)), lora


def _read_weights(raw: bytes) -> Arrays:
    """Tensors of the weights file by name, without PEFT's prefix."""
    if len(raw) >= _HEADER_LENGTH.size and (length := _HEADER_LENGTH.unpack_from(raw)[0]) > MAX_HEADER_BYTES:
        raise InvalidInput(f"The header of {WEIGHTS} may have {MAX_HEADER_BYTES} bytes, got {length}")
    try:
        arrays = load_float32(raw)
    except ValueError as error:
        raise InvalidInput(f"{WEIGHTS} cannot be read: {error}") from error
    for name, array in arrays.items():
        if not name.startswith(PREFIX):
            raise InvalidInput(f"{WEIGHTS} has {name[:200]!r}; every name in it must begin with {PREFIX!r}")
        if not np.isfinite(array).all():
            raise InvalidInput(f"{name[:200]} in {WEIGHTS} has numbers that are not finite")
    return {name.removeprefix(PREFIX): array for name, array in arrays.items()}


def _drop_base_weights(named: Arrays, base: BaseWeights) -> None:
    """Drop the copies of embedding and head that peft saves with an adapter of them.

    Raises:
        Unsupported: one is no copy but was trained or resized, so the adapter alone does not give the model.
    """
    for module in (EMBEDDING, HEAD):
        for name in (f"{module}.base_layer.weight", f"{module}.weight"):
            if (saved := named.pop(name, None)) is None:
                continue
            ours = base.read(f"{EMBEDDING if base.head_is_tied else module}.weight")
            if not _is_copy(saved, ours):
                raise Unsupported(
                    f"{name} in {WEIGHTS} is not the weight of this base model; import the adapter for the model it "
                    "was trained on, or save it without trained or resized embeddings (save_embedding_layers=False)"
                )


def _is_copy(saved: np.ndarray, ours: np.ndarray) -> bool:
    """Whether the weights are equal, directly or after rounding ours to bfloat16 or float16."""
    if saved.shape != ours.shape:
        return False
    if np.array_equal(saved, ours):
        return True
    in_bfloat16 = as_float32(to_bfloat16_bits(ours).tobytes(), "BF16").reshape(ours.shape)
    with np.errstate(over="ignore"):
        return np.array_equal(saved, in_bfloat16) or np.array_equal(saved, ours.astype(np.float16))


def _check_targets(named: Arrays, config: PeftConfig) -> None:
    """Refuse factors that peft would ignore."""
    for name in named:
        module, is_factor, _ = name.partition(".lora_")
        is_tied_head = config.ties_head and module == HEAD and config.targets(EMBEDDING)
        if is_factor and module != UNEMBEDDING and not is_tied_head and not config.targets(module):
            raise InvalidInput(
                f"{WEIGHTS} has {name[:200]!r}, but by {CONFIG} (target_modules, exclude_modules, layers_to_transform) "
                "its module has no factors; correct the one or the other"
            )


def _adaptable_modules(base_shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """Numbers of outputs and inputs of every projection that an adapter may change, by module."""
    projections = (*ATTENTION_PROJECTIONS, *MLP_PROJECTIONS)
    modules = {}
    for name, shape in base_shapes.items():
        module = name.removesuffix(".weight")
        if module != name and module.rsplit(".", 1)[-1] in projections:
            modules[module] = (shape[0], shape[1])
    num_tokens, width = base_shapes[f"{EMBEDDING}.weight"]
    return {**modules, HEAD: (num_tokens, width)}


def _untie(given: Arrays, *, is_shared: bool) -> None:
    """Reduce the factors of a tied head and embedding to the head's.

    Args:
        is_shared: whether the folder says that one pair of factors changes both.
    """
    embedding_a, embedding_b = (given.pop(f"{EMBEDDING}.lora_embedding_{factor}", None) for factor in "AB")
    has_head = any(name.startswith(f"{HEAD}.") for name in given)
    if embedding_a is None and embedding_b is None and (is_shared or not has_head):
        return
    if embedding_a is not None and embedding_b is not None and (is_shared or has_head):
        as_head = {f"{HEAD}.lora_A.weight": embedding_b.T, f"{HEAD}.lora_B.weight": embedding_a.T}
        if not has_head:
            given.update(as_head)
        if all(np.array_equal(given.get(name, array[:0]), array) for name, array in as_head.items()):
            return
    raise Unsupported(
        "In this base model head and embedding are one weight, but the adapter does not change both alike; "
        f"import an adapter that leaves {HEAD} and embed_tokens alone"
    )


def _check_factors(given: Arrays, rank: int, modules: Mapping[str, tuple[int, int]]) -> None:
    if not given:
        raise InvalidInput(f"{WEIGHTS} holds no LoRA factor")
    expected = {}
    for module, (num_outputs, num_inputs) in modules.items():
        expected[f"{module}.lora_A.weight"] = (rank, num_inputs)
        expected[f"{module}.lora_B.weight"] = (num_outputs, rank)
    for name, array in given.items():
        if name not in expected:
            raise InvalidInput(
                f"{WEIGHTS} has {name[:200]!r}, which is no LoRA factor of this base model's projections"
            )
        if array.shape != expected[name]:
            raise InvalidInput(f"{name} must have shape {expected[name]}, got {array.shape}")
    for module in modules:
        if (f"{module}.lora_A.weight" in given) != (f"{module}.lora_B.weight" in given):
            raise InvalidInput(f"{WEIGHTS} has only one of the two LoRA factors of {module}")


def _touches(given: Arrays, projections: tuple[str, ...]) -> bool:
    return any(name.partition(".lora_")[0].rsplit(".", 1)[-1] in projections for name in given)


def _complete(given: Arrays, lora: LoraSpec, modules: Mapping[str, tuple[int, int]], b_scale: np.float32) -> Arrays:
    """Factors for all modules that `lora` names, zeros where none are given.

    Args:
        b_scale: factor by which to multiply each B.
    Raises:
        InvalidInput: a factor is no longer finite after scaling.
    """
    trained = (
        *(ATTENTION_PROJECTIONS if lora.train_attn else ()),
        *(MLP_PROJECTIONS if lora.train_mlp else ()),
        *((HEAD,) if lora.train_unembed else ()),
    )
    arrays = {}
    for module, (num_outputs, num_inputs) in modules.items():
        if module.rsplit(".", 1)[-1] in trained:
            a, b = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
            arrays[a] = given.get(a, np.zeros((lora.rank, num_inputs), np.float32))
            with np.errstate(over="ignore"):
                arrays[b] = given.get(b, np.zeros((num_outputs, lora.rank), np.float32)) * b_scale
            if not np.isfinite(arrays[b]).all():
                raise InvalidInput(f"{b} in {WEIGHTS} is not finite any more once it is scaled by alpha over rank")
    return arrays
