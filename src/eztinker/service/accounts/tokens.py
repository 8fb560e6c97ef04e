"""Short-lived tokens that stand for a key: the JWTs which the official SDK exchanges its key for.

Each token is signed with a secret derived from its key. A key that is revoked or replaced takes its tokens with it.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from datetime import UTC, datetime, timedelta

import jwt
from jwt.types import Options

from eztinker.service.accounts.access import KeyHolder, Keys
from eztinker.service.clock import Clock
from eztinker.types import Record

LIFETIME = timedelta(hours=1)
"""Lifetime of a token; the SDK asks for the next one after half of it."""
TOKEN_PREFIX = "eyJ"
"""Prefix of every JWT, and of no key."""
ORGANIZATION = "eztinker"
"""The one organization of a server, which the SDK shows beside the user."""

MAX_REMEMBERED = 1024
"""Most verified tokens that are cached: every request carries one, and to verify it takes longer than most requests."""

_ALGORITHM = "HS256"
_OPTIONS: Options = {
    "require": ["sub", "org_id", "email", "iat", "exp"],
    "verify_exp": False,  # by our own clock, and again at each use
    "verify_iat": False,
}


class _Verified(Record):
    """A token that carried the right signature."""

    holder: KeyHolder
    expires_at: datetime


class Tokens:
    def __init__(self, secret: bytes, keys: Keys, clock: Clock) -> None:
        self._secret = secret
        self._keys = keys
        self._clock = clock
        self._verified: OrderedDict[str, _Verified] = OrderedDict()

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
        """The holder of a token; None if it is not ours, has expired, or its key is no longer valid."""
        verified = self._verified.get(token) or self._verify(token)
        if verified is None or verified.expires_at <= self._clock.now():
            return None
        holder = self._keys.holder(verified.holder.key_id)  # which may have been revoked since
        return holder if holder == verified.holder else None

    def _verify(self, token: str) -> _Verified | None:
        try:
            key_id = jwt.get_unverified_header(token).get("kid", "")
            holder = self._keys.holder(int(key_id)) if key_id.isdecimal() else None
            if holder is None:
                return None
            claims = jwt.decode(token, self._signing_key(holder), [_ALGORITHM], options=_OPTIONS)
        except (jwt.InvalidTokenError, ValueError, RecursionError):  # the last from a header of nested lists
            return None
        verified = _Verified(holder=holder, expires_at=datetime.fromtimestamp(claims["exp"], UTC))
        self._verified[token] = verified
        if len(self._verified) > MAX_REMEMBERED:
            self._verified.popitem(last=False)
        return verified

    def _signing_key(self, holder: KeyHolder) -> bytes:
        return hmac.digest(self._secret, b"eztinker token" + holder.key_hash, "sha256")
