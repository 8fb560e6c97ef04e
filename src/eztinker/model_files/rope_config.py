"""Parameters of rotary position embedding, read from a model's config as transformers reads them.

Files spell them in three ways. An unknown field is refused by name, since ignoring it could change every angle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from eztinker.errors import InvalidInput, Unsupported
from eztinker.model_files.json_fields import JsonFields

DEFAULT_THETA = 10000.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeConfig:
    head_dim: int
    theta: float
    kind: str = "default"
    scaling: dict[str, float] = field(default_factory=dict)
    """Parameters of this kind under their names in model files, inferred ones included."""


def read_rope(config: JsonFields, head_dim: int, context_length: int) -> RopeConfig:
    """Read the rope parameters of a config from `rope_scaling`, `rope_parameters` and the fields beside them.

    Raises:
        Unsupported: the kind, or a field of it, is not supported.
        InvalidInput, DataDamaged: a number is invalid.
    """
    block = _block(config)
    kind = block.text("rope_type", block.text("type", "default"))
    if kind not in _KINDS:
        raise Unsupported(f"the rope type {kind!r} is not supported; supported are {', '.join(sorted(_KINDS))}")
    fields = _KINDS[kind]
    unknown = [key for key in block.names if key not in (*_COMMON, *fields.keys)]
    if unknown:
        raise Unsupported(
            f"the field {unknown[0]!r} is not known for the rope type {kind!r}, which has {', '.join(fields.keys)}"
            if fields.keys
            else f"the field {unknown[0]!r} is not known for the rope type {kind!r}, which has none of its own"
        )
    holder = block if "rope_theta" in block else config
    theta = holder.number("rope_theta", DEFAULT_THETA, above=1.0 if kind == "yarn" else 0.0)
    scaling = fields.read(_Source(block, config, context_length))
    return RopeConfig(head_dim=head_dim, theta=theta, kind=kind, scaling=scaling)


@dataclass(frozen=True, slots=True)
class _Source:
    """Objects from which the parameters of a kind are read."""

    block: JsonFields
    config: JsonFields
    context_length: int

    def original_context(self) -> float:
        """Original context length: from the config, else from the block, else the model's context length."""
        key = "original_max_position_embeddings"
        holder = self.config if key in self.config else self.block
        return holder.number(key, self.context_length, above=0)

    def rotated_share(self) -> float:
        """Fraction of a head's channels that are rotated."""
        key = "partial_rotary_factor"
        holder = self.config if key not in self.block and self.config.raw(key) is not None else self.block
        return holder.number(key, 1.0, above=0)

    def check_all_rotated(self) -> None:
        if (share := self.rotated_share()) != 1.0:
            raise Unsupported(f"a partial_rotary_factor of {share:g} is not supported; all channels must turn (1.0)")


def _block(config: JsonFields) -> JsonFields:
    """The first non-empty one of `rope_scaling`, which older files have, and `rope_parameters`."""
    for key in ("rope_scaling", "rope_parameters"):
        block = config.object(key)
        if block is not None and block.names:
            return block
    return JsonFields({}, where="config.json")


def _default(source: _Source) -> dict[str, float]:
    source.check_all_rotated()
    return {}


def _linear(source: _Source) -> dict[str, float]:
    source.check_all_rotated()
    return {"factor": source.block.number("factor", above=0)}


def _proportional(source: _Source) -> dict[str, float]:
    share = source.rotated_share()
    if share > 1:
        raise InvalidInput(f"partial_rotary_factor must be at most 1, got {share:g}")
    return {"factor": source.block.number("factor", 1.0, above=0), "partial_rotary_factor": share}


def _llama3(source: _Source) -> dict[str, float]:
    source.check_all_rotated()
    low = source.block.number("low_freq_factor", above=0)
    return {
        "factor": source.block.number("factor", above=0),
        "low_freq_factor": low,
        "high_freq_factor": source.block.number("high_freq_factor", above=low),
        "original_max_position_embeddings": source.original_context(),
    }


def _yarn(source: _Source) -> dict[str, float]:
    source.check_all_rotated()
    original = source.original_context()
    is_ratio = _is_null(source.block, "factor")
    factor = source.context_length / original if is_ratio else source.block.number("factor", above=0)
    return {
        "factor": factor,
        "original_max_position_embeddings": original,
        # 0 and null stand for the default here, and null for false below, as transformers reads them.
        "beta_fast": source.block.optional_number("beta_fast", at_least=0) or 32.0,
        "beta_slow": source.block.optional_number("beta_slow", at_least=0) or 1.0,
        "truncate": 0.0 if _is_null(source.block, "truncate") else float(source.block.flag("truncate", True)),
        "attention_factor": _yarn_attention_factor(source.block, factor),
    }


def _yarn_attention_factor(block: JsonFields, factor: float) -> float:
    """Scale of attention scores. Source: Peng et al. 2023, arXiv:2309.00071, sec. 3.4."""

    def magnitude(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    if (given := block.optional_number("attention_factor", above=0)) is not None:
        return given
    mscale, mscale_all_dim = (block.optional_number(key, at_least=0) for key in ("mscale", "mscale_all_dim"))
    if mscale and mscale_all_dim:
        return magnitude(mscale) / magnitude(mscale_all_dim)
    return magnitude(1.0)


def _is_null(block: JsonFields, key: str) -> bool:
    return key in block and block.raw(key) is None


@dataclass(frozen=True, slots=True)
class _Kind:
    read: Callable[[_Source], dict[str, float]]
    keys: tuple[str, ...] = ()
    """Fields that only this kind has."""


_COMMON = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
_KINDS: Mapping[str, _Kind] = {
    "default": _Kind(_default),
    "linear": _Kind(_linear, ("factor",)),
    "proportional": _Kind(_proportional, ("factor",)),
    "llama3": _Kind(_llama3, ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")),
    "yarn": _Kind(
        _yarn,
        (
            "factor",
            "original_max_position_embeddings",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
        ),
    ),
}
ROPE_KINDS = frozenset(_KINDS)
