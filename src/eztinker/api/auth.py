"""Who is asking. Every route depends on `authenticated_owner`, except health and the files behind signed links."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, Request

from eztinker.api.errors import AccessDenied
from eztinker.service.service import Service

KEY_HEADER = "x-api-key"


def service_of(request: Request) -> Service:
    return request.app.state.service


def authenticated_owner(request: Request) -> str:
    """The owner of the key that the request carries; one answer for every way in which it may be wrong."""
    owner = service_of(request).keys.owner_of(request.headers.get(KEY_HEADER, ""))
    if owner is None:
        raise AccessDenied(
            HTTPStatus.UNAUTHORIZED,
            "unauthorized",
            "The X-API-Key header must carry a key of this server; `eztinker env` prints it on the server's machine",
        )
    return owner


Owner = Annotated[str, Depends(authenticated_owner)]
ServiceDep = Annotated[Service, Depends(service_of)]
