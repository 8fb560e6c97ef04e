"""PEFT folders of other programs as adapters of our own: every name, shape and number is checked."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from eztinker.checkpoints.peft import CONFIG, EMBEDDING, HEAD, PREFIX, UNEMBEDDING, WEIGHTS
from eztinker.errors import InvalidInput, Unsupported
from eztinker.float_tensors import load_float32
from eztinker.types import LORA_ALPHA, LoraSpec

Shapes = Mapping[str, tuple[int, ...]]
Arrays = dict[str, np.ndarray]

MAX_RANK = 512
MAX_ALPHA = 1_000_000
MAX_CONFIG_BYTES = 1 << 20
MAX_HEADER_BYTES = 1 << 20
"""Of what the weights' file says of its tensors: ten times that of an adapter on every weight of a 70B model."""
_HEADER_LENGTH = struct.Struct("<Q")
"""What a safetensors file starts with."""
ATTENTION_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")

_BEYOND_PLAIN_LORA = (
    "use_dora",
    "use_qalora",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layer_replication",
    "fan_in_fan_out",
    "lora_bias",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
)
"""Fields of a PEFT config that change what is computed; a plain LoRA leaves them off."""


def read_peft(parts: Mapping[str, bytes], base_shapes: Shapes, *, head_is_tied: bool) -> tuple[Arrays, LoraSpec]:
    """The factors, by our names and float32, and the shape of the adapter in a PEFT folder.

    The folder's scale goes into the Bs, since ours is fixed. A module that the folder leaves alone gets factors of
    zeros: they change nothing and, having no gradient, never will.

    Args:
        parts: the folder's two files by name.
        base_shapes: every weight of the base model it is for.
        head_is_tied: whether that model's output layer is its embedding.
    Raises:
        InvalidInput: a file cannot be read, or a name, shape or number does not fit the base model.
        Unsupported: it is no plain LoRA.
    """
    config = _read_config(parts[CONFIG])
    rank, scale = _rank_and_scale(config)
    named = _read_weights(parts[WEIGHTS])
    given = {name.replace(UNEMBEDDING, HEAD): array for name, array in named.items()}
    if head_is_tied:
        _untie(given, is_shared=bool(config.get("ensure_weight_tying")) or given.keys() != named.keys())
    modules = _adaptable_modules(base_shapes)
    _check_factors(given, rank, modules)
    lora = LoraSpec(
        rank=rank,
        seed=0,
        train_attn=_touches(given, ATTENTION_PROJECTIONS),
        train_mlp=_touches(given, MLP_PROJECTIONS),
        train_unembed=_touches(given, (HEAD,)),
    )
    return _complete(given, lora, modules, np.float32(scale * rank / LORA_ALPHA)), lora


def trained_on(parts: Mapping[str, bytes]) -> str | None:
    """What a PEFT folder calls the base model it was trained on; None if it does not say.

    Raises:
        InvalidInput, Unsupported: as of `read_peft`.
    """
    name = _read_config(parts[CONFIG]).get("base_model_name_or_path")
    if name is not None and not isinstance(name, str):
        raise InvalidInput(f"base_model_name_or_path in {CONFIG} must be text, got {str(name)[:100]}")
    return name or None


def _read_config(raw: bytes) -> dict[str, Any]:
    """The config of a plain LoRA."""
    if len(raw) > MAX_CONFIG_BYTES:
        raise InvalidInput(f"{CONFIG} may have {MAX_CONFIG_BYTES} bytes, got {len(raw)}")
    try:
        config = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{CONFIG} cannot be read: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise Unsupported(f"{CONFIG} does not describe a LoRA adapter; only those can be imported")
    if beyond := [name for name in _BEYOND_PLAIN_LORA if config.get(name)]:
        raise Unsupported(f"The adapter uses {', '.join(beyond)}, which is not supported; import a plain LoRA")
    if config.get("bias", "none") != "none":
        raise Unsupported(f"The adapter trains biases (bias {config['bias']!r}); import one with bias 'none'")
    return config


def _rank_and_scale(config: Mapping[str, Any]) -> tuple[int, float]:
    """The rank, and what the product of the factors is multiplied by."""
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or not 1 <= rank <= MAX_RANK:
        raise InvalidInput(f"r in {CONFIG} must be an integer from 1 to {MAX_RANK}, got {str(rank)[:100]}")
    if not isinstance(alpha, (int, float)) or not abs(alpha) <= MAX_ALPHA:
        raise InvalidInput(f"lora_alpha in {CONFIG} must be a number of at most {MAX_ALPHA:,}, got {str(alpha)[:100]}")
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _read_weights(raw: bytes) -> Arrays:
    """What the folder holds, named without PEFT's prefix."""
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


def _adaptable_modules(base_shapes: Shapes) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of every projection an adapter may change."""
    projections = (*ATTENTION_PROJECTIONS, *MLP_PROJECTIONS)
    modules = {}
    for name, shape in base_shapes.items():
        module = name.removesuffix(".weight")
        if module != name and module.rsplit(".", 1)[-1] in projections:
            modules[module] = (shape[0], shape[1])
    num_tokens, width = base_shapes[f"{EMBEDDING}.weight"]
    return {**modules, HEAD: (num_tokens, width)}


def _untie(given: Arrays, *, is_shared: bool) -> None:
    """Leave of the weight that head and embedding share only the head's factors.

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
    """Factors for all that `lora` names, zeros where none are given.

    Raises:
        InvalidInput: a factor is too large for its scale.
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
