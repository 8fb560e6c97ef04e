"""Listings: runs and checkpoints as JSON, paging parameters, cursors and signed links."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Query, Request

from eztinker.service.accounts.signed_links import Signature
from eztinker.service.checkpoints.checkpoints import Checkpoint, tinker_path
from eztinker.service.sessions.session_search import as_text
from eztinker.service.training.run_listings import RunListing
from eztinker.types import CheckpointKind

Limit = Annotated[int, Query(ge=0, le=10_000)]
Offset = Annotated[int, Query(ge=0, le=2**62)]
AccessScope = Literal["owned", "accessible"]
"""Scope of a listing: the caller's own objects, or also those that other owners have published."""

_CHECKPOINT_TYPE = {
    CheckpointKind.TRAINING: "training",
    CheckpointKind.SAMPLER: "sampler",
    CheckpointKind.EXTERNAL: "external",
}


def checkpoint_as_json(checkpoint: Checkpoint, base_model: str) -> dict[str, Any]:
    return {
        "checkpoint_id": f"{checkpoint.kind}/{checkpoint.name}",
        "checkpoint_type": _CHECKPOINT_TYPE[checkpoint.kind],
        "time": checkpoint.created_at.isoformat(),
        "tinker_path": tinker_path(checkpoint),
        "base_model": base_model,
        "size_bytes": checkpoint.size_bytes,
        "public": checkpoint.is_public,
        "user_metadata": checkpoint.user_metadata,
        "expires_at": None if checkpoint.expires_at is None else checkpoint.expires_at.isoformat(),
    }


def run_as_json(listing: RunListing) -> dict[str, Any]:
    model = listing.model
    last, last_sampler = listing.last_checkpoint, listing.last_sampler_checkpoint
    return {
        "training_run_id": model.model_id,
        "base_model": model.base_model,
        "model_owner": model.owner,
        "is_lora": True,
        "corrupted": listing.is_corrupted,
        "lora_rank": model.rank,
        "last_request_time": model.last_request_at.isoformat(),
        "last_checkpoint": None if last is None else checkpoint_as_json(last, model.base_model),
        "last_sampler_checkpoint": None if last_sampler is None else checkpoint_as_json(last_sampler, model.base_model),
        "user_metadata": None if model.user_metadata is None else as_text(model.user_metadata),
    }


def signed_url(request: Request, route: str, signature: Signature, **path: str) -> str:
    """An absolute link to an open route, with its signature."""
    url = request.url_for(route, **path)
    return str(url.include_query_params(expires=signature.expires, signature=signature.signature))


def cursor(offset: int, limit: int, total_count: int) -> dict[str, int]:
    return {"offset": offset, "limit": limit, "total_count": total_count}
