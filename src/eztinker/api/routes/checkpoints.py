"""Saved checkpoints: listings, lifetime, sharing, copies, deletion, and the files of exported ones."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import FileResponse

from eztinker.api.access_tokens import TOKEN_HEADER, lender
from eztinker.api.auth import Owner, ServiceDep, router_with_key, router_without_key
from eztinker.api.bodies import CopyWeightsBody, TtlBody, WeightsInfoBody
from eztinker.api.listing import Limit, Offset, checkpoint_as_json, cursor, signed_url
from eztinker.api.reading import read_json
from eztinker.service.accounts.signed_links import LIFETIME, Signature
from eztinker.service.checkpoints.checkpoints import Checkpoint
from eztinker.service.checkpoints.copies import CopyTarget
from eztinker.service.service import Service
from eztinker.service.validation import TINKER_SCHEME
from eztinker.types import Page

router = router_with_key()
open_router = router_without_key()
"""Routes that a signature opens instead of a key."""

_CHECKPOINT = "/training_runs/{model_id}/checkpoints/{kind}/{name}"


@router.get("/checkpoints")
async def list_checkpoints(service: ServiceDep, owner: Owner, limit: Limit = 100, offset: Offset = 0) -> dict[str, Any]:
    rows, total = await service.checkpoints.of_owner(owner, Page(offset=offset, limit=limit))
    return {"checkpoints": await _listed(service, rows), "cursor": cursor(offset, limit, total)}


@router.get("/training_runs/{model_id}/checkpoints")
async def list_checkpoints_of_run(model_id: str, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    rows = await service.checkpoints.of_run(owner, model_id)
    return {"checkpoints": await _listed(service, rows)}


@router.delete(_CHECKPOINT)
async def delete_checkpoint(model_id: str, kind: str, name: str, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    await service.checkpoint_changes.delete(owner, _path(model_id, kind, name))
    return {}


@router.put(f"{_CHECKPOINT}/ttl")
async def set_checkpoint_ttl(
    model_id: str, kind: str, name: str, request: Request, service: ServiceDep, owner: Owner
) -> dict[str, Any]:
    body = await read_json(request, TtlBody)
    await service.checkpoint_changes.set_ttl(owner, _path(model_id, kind, name), body.ttl_seconds)
    return {}


@router.post(f"{_CHECKPOINT}/publish")
async def publish_checkpoint(model_id: str, kind: str, name: str, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    await service.checkpoint_changes.set_public(owner, _path(model_id, kind, name), is_public=True)
    return {}


@router.delete(f"{_CHECKPOINT}/publish")
async def unpublish_checkpoint(
    model_id: str, kind: str, name: str, service: ServiceDep, owner: Owner
) -> dict[str, Any]:
    await service.checkpoint_changes.set_public(owner, _path(model_id, kind, name), is_public=False)
    return {}


@router.get(f"{_CHECKPOINT}/external_weights_urls")
async def external_weights_urls(
    model_id: str, kind: str, name: str, request: Request, service: ServiceDep, owner: Owner
) -> dict[str, Any]:
    """Links to the checkpoint's files that need no key, for an hour."""
    checkpoint, files = await service.checkpoints.exported_files(owner, _path(model_id, kind, name))
    expires_at = service.clock.now() + LIFETIME
    urls = {
        file_name: signed_url(
            request,
            "exported_file",
            service.links.sign("export", checkpoint.checkpoint_id, file_name, expires_at=expires_at),
            checkpoint_id=checkpoint.checkpoint_id,
            file_name=file_name,
        )
        for file_name in files
    }
    return {"urls": urls, "expires": expires_at.isoformat()}


@router.post("/copy_weights")
async def copy_weights(request: Request, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    """Copy a checkpoint. The token for another owner's weights comes as a header or in the body; the header wins."""
    body = await read_json(request, CopyWeightsBody)
    path = await service.checkpoint_copies.copy(
        owner,
        body.source_path,
        CopyTarget(session_id=body.session_id, model_seq_id=body.model_seq_id, project_id=body.destination_project_id),
        ttl_seconds=body.ttl_seconds,
        lender=lender(request, request.headers.get(TOKEN_HEADER, body.weights_access_token)),
        idempotency_key=request.headers.get("x-idempotency-key"),
    )
    return {"tinker_path": path}


@router.post("/weights_info")
async def weights_info(request: Request, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    body = await read_json(request, WeightsInfoBody)
    _, model = await service.checkpoints.find(owner, body.tinker_path)
    return {
        "base_model": model.base_model,
        "is_lora": True,
        "optimizer_config": {"type": "adamw"},
        "lora_rank": model.rank,
        "train_unembed": model.train_unembed,
        "train_mlp": model.train_mlp,
        "train_attn": model.train_attn,
    }


@open_router.get("/exports/{checkpoint_id}/{file_name}")
async def exported_file(
    checkpoint_id: str, file_name: str, expires: int, signature: str, service: ServiceDep
) -> FileResponse:
    """One file of an export, for the holder of a signed link."""
    signed = Signature(expires=expires, signature=signature)
    service.links.check("export", checkpoint_id, file_name, signature=signed, now=service.clock.now())
    checkpoint = await service.checkpoints.linked(checkpoint_id)
    return FileResponse(await service.checkpoints.file(checkpoint, file_name), filename=file_name)


async def _listed(service: Service, rows: list[Checkpoint]) -> list[dict[str, Any]]:
    base_models = await service.checkpoints.base_models(rows)
    return [checkpoint_as_json(row, base_models[row.model_id]) for row in rows]


def _path(model_id: str, kind: str, name: str) -> str:
    return f"{TINKER_SCHEME}{model_id}/{kind}/{name}"
