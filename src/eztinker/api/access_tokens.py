"""Weights access tokens: a key of another owner, with which to read that owner's checkpoints."""

from __future__ import annotations

from eztinker.errors import InvalidInput
from eztinker.service.service import Service

TOKEN_HEADER = "x-tinker-weights-access-token"


def lender(service: Service, token: str | None) -> str | None:
    """The owner whose checkpoints `token` opens; None where there is no token.

    Raises:
        InvalidInput: it is not a key of this server.
    """
    if token is None:
        return None
    holder = service.keys.holder_of(token)
    if holder is None:
        raise InvalidInput(
            "weights_access_token must be a key of this server, of the owner of the weights",
            field="weights_access_token",
        )
    return holder.owner
