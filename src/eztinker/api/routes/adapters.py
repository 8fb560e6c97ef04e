"""Adapters as archives: signed links to a checkpoint's archive, for older clients, and imports."""

from __future__ import annotations

from email.utils import format_datetime
from typing import Any

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from eztinker.api.auth import Owner, ServiceDep, router_with_key, router_without_key
from eztinker.api.listing import signed_url
from eztinker.api.reading import read_body
from eztinker.service.accounts.signed_links import LIFETIME, Signature
from eztinker.service.validation import TINKER_SCHEME

router = router_with_key()
open_router = router_without_key()
"""Routes that a signature opens instead of a key."""

MAX_ADAPTER_BYTES = 512 << 20
"""Largest archive to import. Rank 64 on every weight of a model of 3 billion parameters takes 400 MB."""


@router.get("/training_runs/{model_id}/checkpoints/{kind}/{name}/archive")
async def checkpoint_archive(
    model_id: str, kind: str, name: str, request: Request, service: ServiceDep, owner: Owner
) -> RedirectResponse:
    """Redirect to a signed link, which the client does not follow but hands to the user."""
    checkpoint, _ = await service.checkpoints.open(owner, f"{TINKER_SCHEME}{model_id}/{kind}/{name}", "download")
    expires_at = service.clock.now() + LIFETIME
    signature = service.links.sign("archive", checkpoint.checkpoint_id, expires_at=expires_at)
    url = signed_url(request, "archive", signature, checkpoint_id=checkpoint.checkpoint_id)
    return RedirectResponse(url, status_code=302, headers={"Expires": format_datetime(expires_at, usegmt=True)})


@open_router.get("/archives/{checkpoint_id}")
async def archive(checkpoint_id: str, expires: int, signature: str, service: ServiceDep) -> Response:
    """A checkpoint's adapter as a PEFT folder in a tar file, for the holder of a signed link."""
    signed = Signature(expires=expires, signature=signature)
    service.links.check("archive", checkpoint_id, signature=signed, now=service.clock.now())
    checkpoint = await service.checkpoints.linked(checkpoint_id)
    return Response(await service.adapters.archive(checkpoint), media_type="application/x-tar")


@router.post("/import_adapter")
async def import_adapter(
    request: Request, base_model: str, name: str, service: ServiceDep, owner: Owner
) -> dict[str, Any]:
    """Import an adapter from a PEFT archive in the body; an addition of ours to the protocol.

    `tinker_path` is the checkpoint to sample from, `warning` a sentence for the user if the adapter may have been
    trained on another base model.
    """
    body = await read_body(request, max_bytes=MAX_ADAPTER_BYTES)
    imported = await service.adapters.import_archive(owner, body, base_model=base_model, name=name)
    return {"tinker_path": imported.path, "warning": imported.warning}
