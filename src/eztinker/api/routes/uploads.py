"""Uploads of adapters as SDK 0.39 makes them: a link for each file of a PEFT folder, then the checkpoint's path."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from fastapi import Request

from eztinker.api.auth import Owner, ServiceDep, router_with_key, router_without_key
from eztinker.api.bodies import UploadFinishBody, UploadStartBody
from eztinker.api.error_responses import RequestRefused
from eztinker.api.listing import signed_url
from eztinker.api.reading import read_json
from eztinker.service.accounts.signed_links import Signature
from eztinker.service.checkpoints.uploads import MAX_BYTES

router = router_with_key()
open_router = router_without_key()
"""Routes that a signature opens instead of a key."""

FILE_SECONDS = 1800.0
"""Longest time that one file may take to arrive."""


@router.post("/external_weights_upload_start")
async def start_upload(request: Request, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    body = await read_json(request, UploadStartBody)
    upload = await service.uploads.start(
        owner, base_model=body.base_model, lora=body.lora(), project_id=body.destination_project_id
    )
    urls = {
        name: signed_url(
            request,
            "upload_file",
            service.links.sign("upload", upload.upload_id, name, expires_at=upload.expires_at),
            upload_id=upload.upload_id,
            file_name=name,
        )
        for name in MAX_BYTES
    }
    return {"upload_id": upload.upload_id, "urls": urls, "expires": upload.expires_at.isoformat()}


@open_router.put("/uploads/{upload_id}/{file_name}")
async def upload_file(
    upload_id: str, file_name: str, expires: int, signature: str, request: Request, service: ServiceDep
) -> dict[str, Any]:
    """Receive one file of an upload from the holder of a signed link."""
    signed = Signature(expires=expires, signature=signature)
    service.links.check("upload", upload_id, file_name, signature=signed, now=service.clock.now())
    try:
        async with asyncio.timeout(FILE_SECONDS):
            await service.uploads.receive(upload_id, file_name, request.stream())
    except TimeoutError as error:
        message = f"A file must come within {FILE_SECONDS:.0f} s"
        raise RequestRefused(
            HTTPStatus.REQUEST_TIMEOUT, "body_too_slow", message, headers={"Connection": "close"}
        ) from error
    return {}


@router.post("/external_weights_upload_finish")
async def finish_upload(request: Request, service: ServiceDep, owner: Owner) -> dict[str, str]:
    body = await read_json(request, UploadFinishBody)
    return {"tinker_path": await service.uploads.finish(owner, body.upload_id)}
