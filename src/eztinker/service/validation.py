"""Values a caller may be wrong about: names, LoRA shapes, optimizer steps, lifetimes and metadata."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import orjson

from eztinker.base_models.catalog import BaseModel
from eztinker.errors import CheckpointNotFound, InvalidInput, Unsupported
from eztinker.oplog.models import RUN_PREFIX
from eztinker.redaction import without_secrets
from eztinker.types import AdamParams, CheckpointKind, LoraSpec, Record

MAX_RANK = 512
MAX_SEED = 2**63 - 1
MAX_SEQ_ID = 2**63 - 1
MIN_TTL_SECONDS = 3600
MAX_TTL_SECONDS = 10 * 365 * 24 * 3600
MAX_METADATA_BYTES = 4096
MIN_KEY_CHARS = 40
"""Shorter names that begin like a key are names."""
TINKER_SCHEME = "tinker://"

_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class TinkerPath(Record):
    """`tinker://<model_id>/<kind>/<name>`, taken apart."""

    model_id: str
    """The id or name of a run stands in its place too."""
    kind: CheckpointKind
    name: str

    def __str__(self) -> str:
        return f"{TINKER_SCHEME}{self.model_id}/{self.kind}/{self.name}"


def parse_tinker_path(path: str) -> TinkerPath:
    """The three parts of a checkpoint's path.

    Raises:
        CheckpointNotFound: no checkpoint can have this path.
    """
    parts = path.removeprefix(TINKER_SCHEME).split("/")
    if not path.startswith(TINKER_SCHEME) or len(parts) != 3 or parts[1] not in set(CheckpointKind):
        kinds = ", ".join(CheckpointKind)
        raise CheckpointNotFound(
            f"A checkpoint path is {TINKER_SCHEME}RUN/KIND/NAME, KIND one of {kinds}; got {path[:200]!r}"
        )
    return TinkerPath(model_id=parts[0], kind=CheckpointKind(parts[1]), name=parts[2])


def check_name(name: str) -> str:
    """`name`, if a checkpoint may have it."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"A checkpoint name has 1 to 128 letters, digits, dots, dashes and underscores and starts with a letter or "
            f"digit; got {name[:200]!r}",
            field="path",
        )
    if len(name) >= MIN_KEY_CHARS and without_secrets(name) != name:
        raise InvalidInput("A checkpoint name is shown in listings, and this one looks like a key", field="path")
    return name


def check_run_name(name: str | None) -> str | None:
    """`name`, if a run may have it: it must not pass for an id, nor end a path."""
    if name is not None and (not _RUN_NAME.fullmatch(name) or name.startswith(RUN_PREFIX)):
        raise InvalidInput(
            "A run's name has 1 to 64 letters, digits, dots, dashes and underscores, starts with a letter or digit and "
            f"not with {RUN_PREFIX!r}; got {name[:200]!r}",
            field="name",
        )
    return name


def check_seq_id(seq_id: int) -> int:
    if not 0 <= seq_id <= MAX_SEQ_ID:
        raise InvalidInput(f"seq_id must be between 0 and {MAX_SEQ_ID}, got {seq_id}", field="seq_id")
    return seq_id


def check_lora(lora: LoraSpec) -> LoraSpec:
    """`lora`, if an adapter can have this shape."""
    if not 1 <= lora.rank <= MAX_RANK:
        raise InvalidInput(f"LoRA rank must be between 1 and {MAX_RANK}, got {lora.rank}", field="rank")
    if not (lora.train_attn or lora.train_mlp or lora.train_unembed):
        raise InvalidInput("At least one of train_attn, train_mlp and train_unembed must be true", field="train_attn")
    if not 0 <= lora.seed <= MAX_SEED:
        raise InvalidInput(f"The LoRA seed must be between 0 and {MAX_SEED}, got {lora.seed}", field="seed")
    return lora


def check_optimizer_family(family: str | None) -> None:
    if family not in (None, "adamw"):
        raise Unsupported(f"Optimizer {family!r} is not supported by this server; it has adamw")


def check_adam(adam: AdamParams) -> AdamParams:
    """`adam`, if AdamW can make a step with it."""
    for name in ("learning_rate", "eps", "weight_decay", "grad_clip_norm", "beta1", "beta2"):
        value = getattr(adam, name)
        if not math.isfinite(value):
            raise InvalidInput(f"{name} must be a finite number, got {value}", field=name)
    for name in ("learning_rate", "weight_decay"):
        if (value := getattr(adam, name)) < 0:
            raise InvalidInput(f"{name} must not be negative, got {value}", field=name)
    for name in ("beta1", "beta2"):
        if not 0 <= (value := getattr(adam, name)) < 1:
            raise InvalidInput(f"{name} must be at least 0 and below 1, got {value}", field=name)
    if adam.eps <= 0:
        raise InvalidInput(f"eps must be positive, got {adam.eps}", field="eps")
    return adam


def expiry(ttl_seconds: int | None, now: datetime) -> datetime | None:
    """End of life of a checkpoint made now; None for never."""
    if ttl_seconds is None:
        return None
    if not MIN_TTL_SECONDS <= ttl_seconds <= MAX_TTL_SECONDS:
        raise InvalidInput(
            f"ttl_seconds must be between {MIN_TTL_SECONDS} and {MAX_TTL_SECONDS}, got {ttl_seconds}",
            field="ttl_seconds",
        )
    return now + timedelta(seconds=ttl_seconds)


def check_metadata(metadata: Mapping[str, Any] | None, *, field: str = "user_metadata") -> None:
    """Metadata comes back in every listing, so it must stay small."""
    if metadata is not None and len(orjson.dumps(metadata)) > MAX_METADATA_BYTES:
        raise InvalidInput(f"{field} may have {MAX_METADATA_BYTES} bytes of JSON", field=field)


def check_text(text: str | None, *, field: str) -> None:
    if text is not None and len(text.encode(errors="surrogatepass")) > MAX_METADATA_BYTES:
        raise InvalidInput(f"{field} may have {MAX_METADATA_BYTES} bytes", field=field)


def check_tokens(where: str, tokens: np.ndarray, base_model: BaseModel) -> None:
    """Every token is one the base model knows."""
    wrong = np.flatnonzero((tokens < 0) | (tokens >= base_model.vocab_size))
    if len(wrong):
        raise InvalidInput(
            f"{where}: token {tokens.flat[wrong[0]]} at position {wrong[0]} is not in the vocabulary; "
            f"{base_model.name} knows 0 to {base_model.vocab_size - 1}"
        )
