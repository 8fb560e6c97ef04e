"""A model's shape, read from its `config.json`. Adding a family means adding a reader here and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eztinker.errors import InvalidInput, Unsupported
from eztinker.model.rope import RopeConfig, rope_config


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderConfig:
    """Everything the decoder needs to know about a model besides its weights."""

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
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    """RMS norm over each query and key head before the rotation (Qwen3)."""
    sliding_windows: tuple[int | None, ...] = ()
    """Per layer: how many positions back a token sees, itself included; None sees all."""

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise InvalidInput(
                f"{self.num_heads} attention heads cannot share {self.num_kv_heads} key-value heads evenly"
            )
        if len(self.sliding_windows) != self.num_layers:
            raise InvalidInput(
                f"{self.num_layers} layers need as many sliding windows, got {len(self.sliding_windows)}"
            )


def read_config(directory: Path) -> DecoderConfig:
    """The shape of the model in `directory`.

    Raises:
        Unsupported: a family or a variant the decoder does not know, named.
    """
    raw = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    family = raw.get("model_type")
    if family not in FAMILIES:
        raise Unsupported(f"The model family {family!r} is not supported; supported are {', '.join(sorted(FAMILIES))}")
    activation = raw.get("hidden_act", "silu")
    if activation != "silu":
        raise Unsupported(f"The activation {activation!r} is not supported; these families use silu")
    return FAMILIES[family](raw)


def _common(raw: dict[str, Any], windows: tuple[int | None, ...]) -> dict[str, Any]:
    """The fields that every family spells alike."""
    num_heads = raw["num_attention_heads"]
    head_dim = raw.get("head_dim") or raw["hidden_size"] // num_heads
    return {
        "model_type": raw["model_type"],
        "vocab_size": raw["vocab_size"],
        "hidden_size": raw["hidden_size"],
        "intermediate_size": raw["intermediate_size"],
        "num_layers": raw["num_hidden_layers"],
        "num_heads": num_heads,
        "num_kv_heads": raw.get("num_key_value_heads") or num_heads,
        "head_dim": head_dim,
        "rms_norm_eps": raw.get("rms_norm_eps", 1e-6),
        "rope": rope_config(raw, head_dim),
        "context_length": raw.get("max_position_embeddings", 2048),
        "tie_word_embeddings": raw.get("tie_word_embeddings", False),
        "sliding_windows": windows,
    }


def _llama(raw: dict[str, Any]) -> DecoderConfig:
    bias = raw.get("attention_bias", False)
    windows = (None,) * raw["num_hidden_layers"]
    return DecoderConfig(**_common(raw, windows), qkv_bias=bias, output_bias=bias, mlp_bias=raw.get("mlp_bias", False))


def _mistral(raw: dict[str, Any]) -> DecoderConfig:
    windows = (raw.get("sliding_window"),) * raw["num_hidden_layers"]
    return DecoderConfig(**_common(raw, windows))


def _qwen2(raw: dict[str, Any]) -> DecoderConfig:
    return DecoderConfig(**_common(raw, _qwen_windows(raw)), qkv_bias=True)


def _qwen3(raw: dict[str, Any]) -> DecoderConfig:
    bias = raw.get("attention_bias", False)
    shape = _common({"head_dim": 128, **raw}, _qwen_windows(raw))
    return DecoderConfig(**shape, qkv_bias=bias, output_bias=bias, qk_norm=True)


def _qwen_windows(raw: dict[str, Any]) -> tuple[int | None, ...]:
    """Qwen lists its windowed layers in `layer_types`; older files say from which layer on they begin."""
    num_layers = raw["num_hidden_layers"]
    if not raw.get("use_sliding_window", False):
        return (None,) * num_layers
    types = raw.get("layer_types") or [
        "sliding_attention" if layer >= raw.get("max_window_layers", 28) else "full_attention"
        for layer in range(num_layers)
    ]
    window = raw.get("sliding_window", 4096)
    return tuple(window if kind == "sliding_attention" else None for kind in types)


FAMILIES: dict[str, Callable[[dict[str, Any]], DecoderConfig]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
}
