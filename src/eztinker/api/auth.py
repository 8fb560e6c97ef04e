"""Authentication. Every route depends on `authenticated`, except health and the files behind signed links."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from eztinker.api.error_responses import RequestRefused
from eztinker.api.http_server import PEER
from eztinker.api.wrong_keys import WrongKeys
from eztinker.service.accounts.access import KeyHolder, Keys
from eztinker.service.accounts.tokens import TOKEN_PREFIX, Tokens
from eztinker.service.service import Service

API_PREFIX = "/api/v1"
KEY_HEADER = "x-api-key"
_RENEW = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
"""Tells the official SDK to exchange its key once more and to try again."""


async def service_of(request: Request) -> Service:
    return request.app.state.service


ServiceDep = Annotated[Service, Depends(service_of)]


async def authenticated(request: Request) -> KeyHolder:
    """The holder of the request's key or token; every wrong one gets the same 401, whatever is wrong with it."""
    service: Service = request.app.state.service
    credential = request.headers.get(KEY_HEADER, "")
    is_token = credential.startswith(TOKEN_PREFIX)
    holder = look_up(request, credential, service.tokens if is_token else service.keys)
    if holder is None:
        raise RequestRefused(
            HTTPStatus.UNAUTHORIZED,
            "unauthorized",
            "The X-API-Key header must carry a key of this server; `eztinker env` prints it on the server's machine",
            headers=_RENEW if is_token else None,
        )
    request.state.owner = holder.owner  # the budget for request bodies is shared out by owner
    return holder


def look_up(request: Request, credential: str, place: Keys | Tokens) -> KeyHolder | None:
    """The holder of `credential`, or None if it is wrong. No request's key or token is looked up anywhere else.

    Raises:
        RequestRefused: the address of `request` has sent too many wrong keys.
    """
    wrong_keys: WrongKeys = request.app.state.wrong_keys
    address = getattr(request.state, PEER, "")  # an application that runs without a server has no peers
    wrong_keys.check(address, credential)
    holder = place.holder_of(credential)
    if holder is None:
        wrong_keys.count(address)
    else:
        wrong_keys.remember(credential)
    return holder


async def owner_of(holder: Annotated[KeyHolder, Depends(authenticated)]) -> str:
    return holder.owner


Holder = Annotated[KeyHolder, Depends(authenticated)]
Owner = Annotated[str, Depends(owner_of)]


def router_with_key() -> APIRouter:
    """A router for API routes that ask for a key."""
    return APIRouter(prefix=API_PREFIX, dependencies=[Depends(authenticated)])


def router_without_key() -> APIRouter:
    """A router for API routes that something other than a key guards."""
    return APIRouter(prefix=API_PREFIX)
