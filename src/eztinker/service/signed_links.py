"""Links to the files of exported checkpoints that work without a key, for a while."""

from __future__ import annotations

import hmac
from datetime import datetime, timedelta

from eztinker.errors import NotFound
from eztinker.types import Record

LIFETIME = timedelta(hours=1)


class SignedFile(Record):
    """Who may fetch what until when; the four parts of a link."""

    checkpoint_id: str
    file_name: str
    expires: int
    """Unix seconds."""
    signature: str


class LinkSigner:
    def __init__(self, secret: bytes) -> None:
        self._secret = hmac.digest(secret, b"eztinker signed links", "sha256")

    def sign(self, checkpoint_id: str, file_name: str, expires_at: datetime) -> SignedFile:
        expires = int(expires_at.timestamp())
        signature = self._signature(checkpoint_id, file_name, expires)
        return SignedFile(checkpoint_id=checkpoint_id, file_name=file_name, expires=expires, signature=signature)

    def check(self, link: SignedFile, now: datetime) -> None:
        """Let a link pass that we signed and that has not expired.

        Raises:
            NotFound: anything else; a forged link learns no more than that.
        """
        expected = self._signature(link.checkpoint_id, link.file_name, link.expires)
        is_ours = hmac.compare_digest(expected.encode(), link.signature.encode(errors="surrogatepass"))
        if not is_ours or now.timestamp() >= link.expires:
            raise NotFound("This link is not valid, or no longer; ask for a new one")

    def _signature(self, checkpoint_id: str, file_name: str, expires: int) -> str:
        message = "\n".join((checkpoint_id, file_name, str(expires))).encode(errors="surrogatepass")
        return hmac.new(self._secret, message, "sha256").hexdigest()
