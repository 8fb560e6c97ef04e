"""The caller's own key: look at it, exchange it for a token, revoke it."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from fastapi import Request

from eztinker.api.auth import KEY_HEADER, Holder, ServiceDep, router_with_key
from eztinker.api.error_responses import RequestRefused
from eztinker.service.accounts.access import SERVER_KEY_ID
from eztinker.service.accounts.tokens import ORGANIZATION, TOKEN_PREFIX

router = router_with_key()


@router.post("/auth/token")
async def exchange_key(request: Request, service: ServiceDep, holder: Holder) -> dict[str, str]:
    """A token for the key. A token buys no other token: it could be prolonged for ever."""
    if request.headers[KEY_HEADER].startswith(TOKEN_PREFIX):
        raise RequestRefused(HTTPStatus.FORBIDDEN, "key_needed", "A token is given for a key, not for another token")
    return {"jwt": service.tokens.issue(holder)}


@router.get("/auth/apikey/me")
async def get_own_key(holder: Holder) -> dict[str, Any]:
    return {
        "key_id": holder.key_id,
        "name": f"key {holder.key_id}",
        "note": "the server's own key" if holder.key_id == SERVER_KEY_ID else "issued by the operator",
        # the server knows its users by name alone
        "details": {"org_details": {"name": ORGANIZATION}, "user_details": {"email": holder.owner}},
    }


@router.delete("/auth/apikey/me")
async def revoke_own_key(service: ServiceDep, holder: Holder) -> dict[str, Any]:
    if holder.key_id == SERVER_KEY_ID:
        raise RequestRefused(
            HTTPStatus.FORBIDDEN, "server_key", "The server's own key can only be changed on its machine"
        )
    await asyncio.to_thread(service.keys.revoke, holder, service.clock.now())
    return {}
