"""Saved checkpoints: listings, lifetime, deletion, and the files of exported ones."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse

from eztinker.api.auth import Owner, ServiceDep
from eztinker.api.bodies import TtlBody, WeightsInfoBody
from eztinker.api.listing import Limit, Offset, checkpoint_as_json, cursor
from eztinker.api.reading import read_json
from eztinker.errors import InvalidInput, NotFound
from eztinker.service.signed_links import LIFETIME, SignedFile
from eztinker.service.validation import TINKER_SCHEME
from eztinker.types import CheckpointKind, Page

router = APIRouter()
open_router = APIRouter()
"""Routes that a signature opens instead of a key."""

_CHECKPOINT = "/training_runs/{model_id}/checkpoints/{kind}/{name}"


@router.get("/checkpoints")
async def list_checkpoints(service: ServiceDep, owner: Owner, limit: Limit = 100, offset: Offset = 0) -> dict[str, Any]:
    rows, total = await service.checkpoints.of_owner(owner, Page(offset=offset, limit=limit))
    return {"checkpoints": [checkpoint_as_json(row) for row in rows], "cursor": cursor(offset, limit, total)}


@router.get("/training_runs/{model_id}/checkpoints")
async def list_checkpoints_of_run(model_id: str, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    rows = await service.checkpoints.of_run(owner, model_id)
    return {"checkpoints": [checkpoint_as_json(row) for row in rows]}


@router.delete(_CHECKPOINT)
async def delete_checkpoint(model_id: str, kind: str, name: str, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    await service.checkpoints.delete(owner, _path(model_id, kind, name))
    return {}


@router.put(f"{_CHECKPOINT}/ttl")
async def set_checkpoint_ttl(
    model_id: str, kind: str, name: str, request: Request, service: ServiceDep, owner: Owner
) -> dict[str, Any]:
    body = await read_json(request, TtlBody)
    await service.checkpoints.set_ttl(owner, _path(model_id, kind, name), body.ttl_seconds)
    return {}


@router.get(f"{_CHECKPOINT}/external_weights_urls")
async def external_weights_urls(
    model_id: str, kind: str, name: str, request: Request, service: ServiceDep, owner: Owner
) -> dict[str, Any]:
    """Links to the checkpoint's files that need no key, for an hour."""
    path = _path(model_id, kind, name)
    checkpoint, _ = await service.checkpoints.find(owner, path)
    if checkpoint.kind is not CheckpointKind.EXTERNAL:
        raise InvalidInput(f"{path} is not an export; save one with save_weights_external")
    expires_at = service.clock.now() + LIFETIME
    links = {
        file.name: _url(request, service.links.sign(checkpoint.checkpoint_id, file.name, expires_at))
        for file in service.checkpoints.files(checkpoint)
    }
    return {"urls": links, "expires": expires_at.isoformat()}


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
    """One file of an export, for whoever has a link that we signed."""
    link = SignedFile(checkpoint_id=checkpoint_id, file_name=file_name, expires=expires, signature=signature)
    service.links.check(link, service.clock.now())
    checkpoint = await service.checkpoints.by_id(checkpoint_id)
    files = {} if checkpoint is None else {file.name: file for file in service.checkpoints.files(checkpoint)}
    if file_name not in files:
        raise NotFound("This export was deleted or has expired")
    return FileResponse(files[file_name], filename=file_name)


def _path(model_id: str, kind: str, name: str) -> str:
    return f"{TINKER_SCHEME}{model_id}/{kind}/{name}"


def _url(request: Request, link: SignedFile) -> str:
    url = request.url_for("exported_file", checkpoint_id=link.checkpoint_id, file_name=link.file_name)
    return str(url.include_query_params(expires=link.expires, signature=link.signature))
