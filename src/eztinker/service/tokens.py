"""Short-lived tokens that stand for a key: the JWTs which the official SDK exchanges its key for.

Each token is signed with a secret derived from its key. A key that is revoked or replaced takes its tokens with it.
"""

from __future__ import annotations

import hmac
from datetime import timedelta

import jwt

from eztinker.service.access import KeyHolder, Keys
from eztinker.service.clock import Clock

LIFETIME = timedelta(hours=1)
"""The SDK asks for the next one after half of it."""
TOKEN_PREFIX = "eyJ"
"""What every JWT starts with, and no key does."""
ORGANIZATION = "eztinker"
"""The one organization of a server, which the SDK shows beside the user."""

_ALGORITHM = "HS256"
_CLAIMS = ["sub", "org_id", "email", "iat", "exp"]


class Tokens:
    def __init__(self, secret: bytes, keys: Keys, clock: Clock) -> None:
        self._secret = secret
        self._keys = keys
        self._clock = clock

    def issue(self, holder: KeyHolder) -> str:
        """A token for `holder`, valid for an hour."""
        now = self._clock.now()
        claims = {
            "sub": f"tml:user:{holder.owner}",
            "org_id": ORGANIZATION,
            "email": "",
            "iat": now,
            "exp": now + LIFETIME,
        }
        return jwt.encode(claims, self._signing_key(holder), _ALGORITHM, headers={"kid": str(holder.key_id)})

    def holder_of(self, token: str) -> KeyHolder | None:
        """Whose token this is; None if it is not ours, has expired, or its key is no longer valid."""
        try:
            key_id = jwt.get_unverified_header(token).get("kid", "")
            holder = self._keys.holder(int(key_id)) if key_id.isdecimal() else None
            if holder is not None:
                jwt.decode(token, self._signing_key(holder), [_ALGORITHM], options={"require": _CLAIMS})
        except (jwt.InvalidTokenError, ValueError):
            return None
        return holder

    def _signing_key(self, holder: KeyHolder) -> bytes:
        return hmac.digest(self._secret, b"eztinker token" + holder.key_hash, "sha256")
