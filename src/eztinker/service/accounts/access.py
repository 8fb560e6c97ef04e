"""Access: the owner of a key, and the owner of an object."""

from __future__ import annotations

import hmac
import logging
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypeVar

from eztinker.errors import ConfigError, NotFound, ServerError
from eztinker.keys.issued_keys import ValidKeys, id_in, revoke_key
from eztinker.keys.key_format import hash_key
from eztinker.keys.server_key import ensure_api_key
from eztinker.settings.server_config import ServerConfig
from eztinker.types import Record

log = logging.getLogger(__name__)

LOCAL_OWNER = "local"
"""Owner of the server's own key."""
SERVER_KEY_ID = 0
MAX_SHOWN_CHARS = 300
"""Most characters shown of an id that does not exist, in the sentence about it."""


class Owned(Protocol):
    @property
    def owner(self) -> str: ...


OwnedT = TypeVar("OwnedT", bound=Owned)


class KeyHolder(Record):
    """The owner whose key a request carries."""

    key_id: int
    owner: str
    key_hash: bytes


class Keys:
    """The keys this server takes: its own, and those its operator has issued. Only their hashes are kept."""

    def __init__(self, server_key: str, data_dir: Path) -> None:
        self._server = KeyHolder(key_id=SERVER_KEY_ID, owner=LOCAL_OWNER, key_hash=hash_key(server_key))
        self._data_dir = data_dir
        self._issued = ValidKeys(data_dir)

    @classmethod
    def of(cls, config: ServerConfig) -> Keys:
        """Make the keys of a configuration; without a configured key, the data directory has one, made on first use.

        Raises:
            ConfigError: a key file is open to other users, or damaged.
        """
        configured = config.api_key
        return cls(
            configured.get_secret_value() if configured else ensure_api_key(config.data_dir).key, config.data_dir
        )

    def holder_of(self, key: str) -> KeyHolder | None:
        """The holder of `key`, or None for a key we do not know. Takes the same time for every wrong key."""
        presented = hash_key(key)
        named = self.holder(id_in(key) or SERVER_KEY_ID) or self._server
        is_named = hmac.compare_digest(named.key_hash, presented)
        is_server = hmac.compare_digest(self._server.key_hash, presented)
        if is_named:
            return named
        return self._server if is_server else None

    def holder(self, key_id: int) -> KeyHolder | None:
        """The holder of the key with this id; None if there is no such key, or it was revoked."""
        if key_id == SERVER_KEY_ID:
            return self._server
        issued = self._issued.by_id().get(key_id)
        if issued is None:
            return None
        return KeyHolder(key_id=key_id, owner=issued.owner, key_hash=bytes.fromhex(issued.sha256))

    def revoke(self, holder: KeyHolder, now: datetime) -> None:
        """End an issued key, as its holder asks.

        Raises:
            ServerError: the disk refuses it.
        """
        try:
            revoke_key(self._data_dir, holder.key_id, now)
        except ConfigError as error:  # it names a file of this machine
            log.error("A key cannot be revoked: %s", error.message, extra={"event": "key_not_revoked"})
            raise ServerError("The key could not be revoked and is valid still; the server's log says why") from error


def owned(row: OwnedT | None, owner: str, what: str) -> OwnedT:
    """Return `row` if it belongs to `owner`. A foreign object looks exactly like one that does not exist.

    Raises:
        NotFound: `what` says what was looked for.
    """
    if row is None or row.owner != owner:
        raise NotFound(f"No such {what[:MAX_SHOWN_CHARS]}")
    return row
