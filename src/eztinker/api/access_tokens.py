"""Weights access tokens: a key of another owner, with which to read that owner's checkpoints."""

from __future__ import annotations

from fastapi import Request

from eztinker.api.auth import look_up
from eztinker.errors import InvalidInput

TOKEN_HEADER = "x-tinker-weights-access-token"


def lender(request: Request, token: str | None) -> str | None:
    """The owner whose checkpoints `token` opens; None where there is no token.

    Raises:
        InvalidInput: `token` is not a key of this server.
        RequestRefused: this address has sent too many wrong keys.
    """
    if token is None:
        return None
    holder = look_up(request, token, request.app.state.service.keys)
    if holder is None:
        raise InvalidInput(
            "weights_access_token must be a key of this server, of the owner of the weights",
            field="weights_access_token",
        )
    return holder.owner
