"""The config of a PEFT folder: every field is honoured, known to have no effect, or refused by name."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eztinker.checkpoints.peft import CONFIG
from eztinker.errors import InvalidInput, Unsupported

MAX_RANK = 512
MAX_ALPHA = 1_000_000
MAX_CONFIG_BYTES = 1 << 20
MAX_NAMES = 10_000
"""Most modules in a list; a model of 80 layers has 560 projections."""
MAX_PARTS = 16
"""Most dotted parts of a module's name to compare, from its end; modules of these models have up to six."""
_MAX_SHOWN_CHARS = 100

HONOURED = frozenset(
    {
        "peft_type",
        "task_type",
        "base_model_name_or_path",
        "r",
        "lora_alpha",
        "use_rslora",
        "bias",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "init_lora_weights",
        "ensure_weight_tying",
    }
)
WITHOUT_EFFECT = frozenset(
    {
        "auto_mapping",
        "peft_version",
        "revision",
        "inference_mode",
        "lora_dropout",  # has an effect only while peft trains
        "megatron_core",  # has an effect only with megatron_config
        "runtime_config",
        "loftq_config",  # this and the next three describe how factors were initialised, if init_lora_weights says so
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "qalora_group_size",  # has an effect only with use_qalora
    }
)
"""Fields that do not change what a saved adapter computes."""
# Any other field changes it, fields of newer versions of peft included, unless it is null, false or empty.

HARMLESS_INITS = ("gaussian", "eva", "orthogonal", "mica")
"""Initialisations (`init_lora_weights`) that leave the base model's weights unchanged."""
CONVERTIBLE_INITS = ("pissa", "olora", "corda", "lora_ga")
"""Prefixes of initialisations that change the base model's weights, and that peft can save as a plain LoRA."""


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """The config of a plain LoRA."""

    rank: int
    scale: float
    """Factor by which the product B @ A is multiplied."""
    base_model: str | None
    ties_head: bool
    """Whether one pair of factors changes both embedding and head."""
    target_modules: frozenset[str] | None
    """Modules with factors; None for every module for which the weights file has factors."""
    exclude_modules: frozenset[str]
    layers: frozenset[int] | None

    def targets(self, module: str) -> bool:
        """Whether peft would put factors on `module`; it ignores the factors of any other."""
        if _is_named(module, self.exclude_modules):
            return False
        if self.target_modules is None or module in self.target_modules:
            return True
        layer = re.search(r"\.(\d{1,9})\.", module)
        in_layers = self.layers is None or (layer is not None and int(layer[1]) in self.layers)
        return _is_named(module, self.target_modules) and in_layers


def read_peft_config(raw: bytes) -> PeftConfig:
    """The config of a plain LoRA in `raw`.

    Raises:
        InvalidInput: the file cannot be read, or a value is invalid.
        Unsupported: the config is not that of a plain LoRA; the message names the field.
    """
    config = _parsed(raw)
    _check_plain(config)
    rank, scale = _rank_and_scale(config)
    return PeftConfig(
        rank=rank,
        scale=scale,
        base_model=_text(config, "base_model_name_or_path"),
        ties_head=_flag(config, "ensure_weight_tying"),
        target_modules=_names(config, "target_modules"),
        exclude_modules=_names(config, "exclude_modules") or frozenset(),
        layers=_layers(config),
    )


def _parsed(raw: bytes) -> Mapping[str, Any]:
    if len(raw) > MAX_CONFIG_BYTES:
        raise InvalidInput(f"{CONFIG} may have {MAX_CONFIG_BYTES} bytes, got {len(raw)}")
    try:
        config = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{CONFIG} cannot be read: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise Unsupported(f"{CONFIG} does not describe a LoRA adapter; only those can be imported")
    return config


def _check_plain(config: Mapping[str, Any]) -> None:
    if beyond := [name for name in config if name not in HONOURED | WITHOUT_EFFECT and config[name]]:
        named = ", ".join(name[:_MAX_SHOWN_CHARS] for name in beyond[:5])
        raise Unsupported(f"The adapter uses {named}, which is not supported; import a plain LoRA")
    if (bias := config.get("bias", "none")) != "none":
        raise Unsupported(f"The adapter trains biases (bias {_shown(bias)}); import one with bias 'none'")
    if (task := config.get("task_type")) not in (None, "CAUSAL_LM"):
        raise Unsupported(f"The adapter is for the task {_shown(task)} (task_type); import one for CAUSAL_LM")
    _check_init(config.get("init_lora_weights", True))


def _check_init(start: Any) -> None:
    """Refuse initialisations that changed the base weights, without which the factors are meaningless."""
    if start is None or isinstance(start, bool) or (isinstance(start, str) and start in HARMLESS_INITS):
        return
    kind = start if isinstance(start, str) else ""
    way = (
        "save it as a plain LoRA with peft's save_pretrained(..., path_initial_model_for_weight_conversion=...)"
        if kind.startswith(CONVERTIBLE_INITS)
        else "merge it into the base model that it was trained on, and serve that"
    )
    raise Unsupported(
        f"The adapter began with init_lora_weights {_shown(start)}, which is not known to leave the base model's "
        f"weights as they are, so its factors would not compute here what they computed there; {way}"
    )


def _rank_and_scale(config: Mapping[str, Any]) -> tuple[int, float]:
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or not 1 <= rank <= MAX_RANK:
        raise InvalidInput(f"r in {CONFIG} must be an integer from 1 to {MAX_RANK}, got {_shown(rank)}")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not abs(alpha) <= MAX_ALPHA:
        raise InvalidInput(f"lora_alpha in {CONFIG} must be a number of at most {MAX_ALPHA:,}, got {_shown(alpha)}")
    return rank, alpha / (math.sqrt(rank) if _flag(config, "use_rslora") else rank)


def _flag(config: Mapping[str, Any], key: str) -> bool:
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise InvalidInput(f"{key} in {CONFIG} must be true or false, got {_shown(value)}")
    return bool(value)


def _text(config: Mapping[str, Any], key: str) -> str | None:
    value = config.get(key)
    if value is not None and not isinstance(value, str):
        raise InvalidInput(f"{key} in {CONFIG} must be text, got {_shown(value)}")
    return value or None


def _names(config: Mapping[str, Any], key: str) -> frozenset[str] | None:
    """Modules that a list names; None if the value is absent or text.

    Text is a regular expression (or "all-linear"), and one from a stranger may take forever to match: then the weights
    file alone says which modules have factors.
    """
    value = config.get(key)
    if value is None or isinstance(value, str):
        return None
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise InvalidInput(f"{key} in {CONFIG} must be a list of names or a pattern, got {_shown(value)}")
    if len(value) > MAX_NAMES:
        raise InvalidInput(
            f"{key} in {CONFIG} may name {MAX_NAMES} modules, got {len(value)}; name them by their last part, as in "
            "'q_proj'"
        )
    return frozenset(value)


def _layers(config: Mapping[str, Any]) -> frozenset[int] | None:
    value = config.get("layers_to_transform")
    layers = [value] if type(value) is int else value
    if layers is None or layers == []:
        return None
    if not isinstance(layers, list) or not all(type(each) is int for each in layers):
        raise InvalidInput(f"layers_to_transform in {CONFIG} must be a list of integers, got {_shown(value)}")
    if (pattern := config.get("layers_pattern") or "layers") not in ("layers", ["layers"]):
        raise Unsupported(f"layers_pattern {_shown(pattern)} in {CONFIG} is not supported; these models have 'layers'")
    return frozenset(layers)


def _is_named(module: str, names: frozenset[str]) -> bool:
    """Whether the module's name, or its part after one of its dots, is one of `names`."""
    parts = module.split(".")[-MAX_PARTS:]
    return module in names or any(".".join(parts[start:]) in names for start in range(len(parts)))


def _shown(value: Any) -> str:
    return repr(value)[:_MAX_SHOWN_CHARS]
