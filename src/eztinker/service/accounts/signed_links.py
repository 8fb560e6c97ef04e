"""Links that work without a key, for a while: to the files of an export, to the trace of a session."""

from __future__ import annotations

import hmac
from datetime import datetime, timedelta

from eztinker.errors import NotFound
from eztinker.types import Record

LIFETIME = timedelta(hours=1)


class Signature(Record):
    """Expiry time of a link, and the proof that we gave it."""

    expires: int
    """Unix seconds."""
    signature: str


class LinkSigner:
    """Signs links and checks the signatures."""

    def __init__(self, secret: bytes) -> None:
        self._secret = hmac.digest(secret, b"eztinker signed links", "sha256")

    def sign(self, *resource: str, expires_at: datetime) -> Signature:
        """Open `resource`, named by the parts of its path, until then."""
        expires = int(expires_at.timestamp())
        return Signature(expires=expires, signature=self._signature(resource, expires))

    def check(self, *resource: str, signature: Signature, now: datetime) -> None:
        """Let a link pass that we signed for this resource and that has not expired.

        Raises:
            NotFound: anything else; a forged link learns no more than that.
        """
        expected = self._signature(resource, signature.expires)
        is_ours = hmac.compare_digest(expected.encode(), signature.signature.encode(errors="surrogatepass"))
        if not is_ours or now.timestamp() >= signature.expires:
            raise NotFound("This link is not valid, or no longer; ask for a new one")

    def _signature(self, resource: tuple[str, ...], expires: int) -> str:
        message = "\n".join((*resource, str(expires))).encode(errors="surrogatepass")
        return hmac.new(self._secret, message, "sha256").hexdigest()
