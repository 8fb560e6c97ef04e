"""A model's architecture, read from its `config.json` as transformers reads it. A new family needs a reader here.

Absent fields have the default of the family; features that the decoder does not support are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eztinker.errors import DataDamaged, InvalidInput, Unsupported
from eztinker.model_files.json_fields import JsonFields, read_json
from eztinker.model_files.rope_config import RopeConfig, read_rope
from eztinker.types import KNOWN_MODEL_TYPES

MAX_CONTEXT = 2**24
"""Longest context: float32, in which positions become angles, represents every integer up to here."""
MAX_LAYERS = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderConfig:
    """A model's architecture: everything the decoder needs besides the weights."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope: RopeConfig
    context_length: int
    tie_word_embeddings: bool
    """Whether the config ties head and embedding; a head that is stored all the same, and differs, is used."""
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    """Whether each query and key head has an RMS norm before the rotation (Qwen3)."""
    sliding_windows: tuple[int | None, ...] = ()
    """Attention window of each layer in positions, the token itself included; None attends to all."""

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise InvalidInput(
                f"{self.num_heads} attention heads (num_attention_heads) cannot share {self.num_kv_heads} key-value "
                "heads (num_key_value_heads) evenly"
            )
        if len(self.sliding_windows) != self.num_layers:
            raise InvalidInput(
                f"{self.num_layers} layers need as many sliding windows, got {len(self.sliding_windows)}"
            )


def read_config(directory: Path, name: str) -> DecoderConfig:
    """Architecture of base model `name` in `directory`.

    Raises:
        Unsupported: the decoder does not support the family or a variant, which the message names.
        DataNotFound, DataDamaged: there is no config, or a value in it is invalid.
    """
    return parse_config(read_json(directory / "config.json", name=name), name)


def parse_config(raw: dict[str, Any], name: str) -> DecoderConfig:
    """Architecture that the object `raw` of a `config.json` describes; raises as `read_config` does."""
    family = raw.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise Unsupported(
            f"Base model {name!r} is of the family {str(family)[:100]!r}; families served are "
            f"{', '.join(KNOWN_MODEL_TYPES)}"
        )
    fields = JsonFields(raw, where=f"config.json of base model {name!r}")
    try:
        _check_supported(fields)
        return FAMILIES[family](fields)
    except Unsupported as error:
        raise Unsupported(f"Base model {name!r} cannot be served: {error.message}") from error
    except InvalidInput as error:
        raise DataDamaged(f"config.json of base model {name!r} cannot be right: {error.message}") from error


def _check_supported(fields: JsonFields) -> None:
    """Refuse features that transformers computes differently from the decoder."""
    activation = fields.text("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise Unsupported(f"the activation {activation!r} (hidden_act) is not supported; these families use 'silu'")
    if not fields.flag("is_causal", True):
        raise Unsupported("attention that is not causal (is_causal false) is not supported")
    for key, what in (
        (
            "quantization_config",
            "the weights are quantized, which is not supported; serve the bfloat16 or float32 version",
        ),
        ("per_layer_config", "fields that differ by layer (per_layer_config) are not supported"),
    ):
        if fields.raw(key) is not None:
            raise Unsupported(what)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Defaults:
    """Default values of a family in transformers."""

    vocab_size: int
    hidden_size: int = 4096
    intermediate_size: int
    num_key_value_heads: int | None
    """Number of key-value heads; None for as many as attention heads."""
    head_dim: int | None = None
    """Channels per head; None for the hidden size over the number of attention heads."""
    max_position_embeddings: int


_QWEN = {"vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32, "max_position_embeddings": 32768}
DEFAULTS = {
    "llama": _Defaults(
        vocab_size=32000, intermediate_size=11008, num_key_value_heads=None, max_position_embeddings=2048
    ),
    "mistral": _Defaults(
        vocab_size=32000, intermediate_size=14336, num_key_value_heads=8, max_position_embeddings=131072
    ),
    "qwen2": _Defaults(**_QWEN),
    "qwen3": _Defaults(**_QWEN, head_dim=128),
}
DEFAULT_LAYERS = DEFAULT_HEADS = 32
DEFAULT_WINDOW = 4096
DEFAULT_FIRST_WINDOWED_LAYER = 28


def _common(fields: JsonFields) -> dict[str, Any]:
    """Fields that every family spells alike."""
    family = fields.text("model_type", "")
    defaults = DEFAULTS[family]
    hidden_size = fields.integer("hidden_size", defaults.hidden_size)
    num_heads = fields.integer("num_attention_heads", DEFAULT_HEADS)
    if family == "llama" and hidden_size % num_heads:
        raise InvalidInput(f"hidden_size {hidden_size} is no multiple of num_attention_heads {num_heads}")
    head_dim = fields.optional_integer("head_dim", defaults.head_dim) or hidden_size // num_heads
    if head_dim < 2 or head_dim % 2:
        raise InvalidInput(f"heads must have an even number of channels, got {head_dim} (head_dim)")
    context_length = fields.integer("max_position_embeddings", defaults.max_position_embeddings, high=MAX_CONTEXT)
    return {
        "model_type": family,
        "vocab_size": fields.integer("vocab_size", defaults.vocab_size),
        "hidden_size": hidden_size,
        "intermediate_size": fields.integer("intermediate_size", defaults.intermediate_size),
        "num_layers": _num_layers(fields),
        "num_heads": num_heads,
        "num_kv_heads": fields.optional_integer("num_key_value_heads", defaults.num_key_value_heads) or num_heads,
        "head_dim": head_dim,
        "rms_norm_eps": fields.number("rms_norm_eps", 1e-6, at_least=0),
        "rope": read_rope(fields, head_dim, context_length),
        "context_length": context_length,
        "tie_word_embeddings": fields.flag("tie_word_embeddings"),
    }


def _num_layers(fields: JsonFields) -> int:
    return fields.integer("num_hidden_layers", DEFAULT_LAYERS, high=MAX_LAYERS)


def _llama(fields: JsonFields) -> DecoderConfig:
    bias = fields.flag("attention_bias")
    return DecoderConfig(
        **_common(fields),
        sliding_windows=_no_windows(fields),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=fields.flag("mlp_bias"),
    )


def _mistral(fields: JsonFields) -> DecoderConfig:
    window = fields.optional_integer("sliding_window", DEFAULT_WINDOW)
    types = _layer_types(fields) or [FULL if window is None else SLIDING] * _num_layers(fields)
    return DecoderConfig(**_common(fields), sliding_windows=_windows(types, window))


def _qwen2(fields: JsonFields) -> DecoderConfig:
    return DecoderConfig(**_common(fields), sliding_windows=_qwen_windows(fields), qkv_bias=True)


def _qwen3(fields: JsonFields) -> DecoderConfig:
    if "head_dim" in fields and fields.raw("head_dim") is None:
        raise InvalidInput("head_dim of a qwen3 model must be an integer, got null")
    bias = fields.flag("attention_bias")
    windows = _qwen_windows(fields)
    return DecoderConfig(**_common(fields), sliding_windows=windows, qkv_bias=bias, output_bias=bias, qk_norm=True)


FULL, SLIDING = "full_attention", "sliding_attention"


def _layer_types(fields: JsonFields) -> list[str] | None:
    types = fields.texts("layer_types", length=_num_layers(fields))
    if types is not None and (unknown := [each for each in types if each not in (FULL, SLIDING)]):
        raise Unsupported(f"layers of the type {unknown[0][:100]!r} (layer_types) are not supported")
    return types


def _windows(types: list[str], window: int | None) -> tuple[int | None, ...]:
    if window is None and SLIDING in types:
        raise Unsupported(f"layer_types names {SLIDING} layers, but there is no window (sliding_window)")
    return tuple(window if kind == SLIDING else None for kind in types)


def _no_windows(fields: JsonFields) -> tuple[None, ...]:
    if SLIDING in (_layer_types(fields) or ()):
        raise Unsupported(
            f"layer_types names {SLIDING} layers, but this family has none; serve it under the family it was trained as"
        )
    return (None,) * _num_layers(fields)


def _qwen_windows(fields: JsonFields) -> tuple[int | None, ...]:
    """Windows of Qwen's layers, from `layer_types` or, in older files, from the first windowed layer on."""
    window = fields.optional_integer("sliding_window", DEFAULT_WINDOW)
    if not fields.flag("use_sliding_window"):
        window = None
    first = fields.integer("max_window_layers", DEFAULT_FIRST_WINDOWED_LAYER, low=-MAX_LAYERS)
    older = [SLIDING if window is not None and layer >= first else FULL for layer in range(_num_layers(fields))]
    return _windows(_layer_types(fields) or older, window)


FAMILIES: Mapping[str, Callable[[JsonFields], DecoderConfig]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
}
