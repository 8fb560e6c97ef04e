"""Who a key belongs to, and who an object belongs to."""

from __future__ import annotations

import hashlib
import hmac
from typing import Protocol, TypeVar

from eztinker.config import ServerConfig
from eztinker.errors import NotFound
from eztinker.keys import ensure_api_key

LOCAL_OWNER = "local"
"""Whoever holds the server's one key."""


class Owned(Protocol):
    @property
    def owner(self) -> str: ...


OwnedT = TypeVar("OwnedT", bound=Owned)


class Keys:
    """The keys this server takes. Only their hashes are kept."""

    def __init__(self, key: str) -> None:
        self._owners = {_hash(key): LOCAL_OWNER}
        self.signing_secret = hmac.digest(key.encode(), b"eztinker signed urls", "sha256")
        """Signs links that work without a key; it changes when the key does."""

    @classmethod
    def of(cls, config: ServerConfig) -> Keys:
        """The configured key, or the one of the data directory, made on first use."""
        if config.api_key is not None:
            return cls(config.api_key.get_secret_value())
        return cls(ensure_api_key(config.data_dir).key)

    def owner_of(self, key: str) -> str | None:
        """The owner of `key`, or None for a key we do not know. Takes the same time for every wrong key."""
        presented = _hash(key)
        owner = None
        for known, known_owner in self._owners.items():
            if hmac.compare_digest(known, presented):
                owner = known_owner
        return owner


def owned(row: OwnedT | None, owner: str, what: str) -> OwnedT:
    """`row`, if it is there and belongs to `owner`. A foreign object looks exactly like one that does not exist.

    Raises:
        NotFound: `what` says what was looked for.
    """
    if row is None or row.owner != owner:
        raise NotFound(f"No such {what}")
    return row


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()
