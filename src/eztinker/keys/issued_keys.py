"""Keys that the operator issues to other people: their owners, and the hashes of what is presented.

They are in one file of the data directory, so that they are made and revoked without a running server, and a running
one sees every change with the next request.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import msgspec

from eztinker.errors import ConfigError, InvalidInput, NotFound
from eztinker.keys.key_format import KEY_PREFIX, hash_key, new_key
from eztinker.keys.private_files import read_private, write_private
from eztinker.types import Record

log = logging.getLogger(__name__)

ISSUED_KEYS_FILE = "issued_keys.json"
LOCK_FILE = "issued_keys.lock"
"""Held while the keys change, since they are replaced as a whole; a running server holds the directory's own lock."""
MAX_ID_DIGITS = 9

_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")
_ISSUED = re.compile(rf"{KEY_PREFIX}([1-9][0-9]{{0,{MAX_ID_DIGITS - 1}}})-.+")


class IssuedKey(Record):
    """A key as the file keeps it: whose it is, and its hash."""

    key_id: int
    """Number of the key, which is part of it and no secret."""
    owner: str
    sha256: str
    """Hash of the whole key, in hexadecimal digits."""
    created_at: datetime
    revoked_at: datetime | None = None
    """None while the key is valid. A revoked key keeps its row, so that its id is never reused."""


class NewKey(Record):
    """A key that was just issued, which is the only time when it can be shown."""

    issued: IssuedKey
    key: str


def id_in(key: str) -> int | None:
    """The id that an issued key names; None for a key of another form."""
    match = _ISSUED.fullmatch(key)
    return None if match is None else int(match[1])


def issue_key(data_dir: Path, owner: str, now: datetime) -> NewKey:
    """Issue a key to `owner`; several keys may belong to one owner.

    Raises:
        InvalidInput: `owner` is no name for one.
    """
    if not _OWNER.fullmatch(owner):
        raise InvalidInput(
            f"An owner has 1 to 128 letters, digits, dots, dashes, underscores and @ signs and starts with a letter or "
            f"digit; got {owner[:200]!r}",
            field="owner",
        )
    with _locked(data_dir):
        keys = issued_keys(data_dir)
        key_id = max((key.key_id for key in keys), default=0) + 1
        key = new_key(f"{key_id}-")
        issued = IssuedKey(key_id=key_id, owner=owner, sha256=hash_key(key).hex(), created_at=now)
        _write(data_dir, [*keys, issued])
    return NewKey(issued=issued, key=key)


def revoke_key(data_dir: Path, key_id: int, now: datetime) -> IssuedKey:
    """Revoke a key; one that was revoked before stays so.

    Raises:
        NotFound: no key has this id.
    """
    with _locked(data_dir):
        keys = {key.key_id: key for key in issued_keys(data_dir)}
        if key_id not in keys:
            raise NotFound(f"No key has the id {key_id}; see: eztinker keys list")
        if keys[key_id].revoked_at is None:
            keys[key_id] = msgspec.structs.replace(keys[key_id], revoked_at=now)
            _write(data_dir, list(keys.values()))
    return keys[key_id]


def issued_keys(data_dir: Path) -> list[IssuedKey]:
    """Every key ever issued in `data_dir`, oldest first.

    Raises:
        ConfigError: the file is open to other users, or damaged.
    """
    path = data_dir / ISSUED_KEYS_FILE
    text = read_private(path)
    try:
        return [] if text is None else msgspec.json.decode(text, type=list[IssuedKey])
    except msgspec.DecodeError as error:
        raise ConfigError(
            f"The key file {path} is damaged ({error}); restore it, or remove it with all its keys"
        ) from error


class ValidKeys:
    """Issued keys that are valid now, read again whenever the file changes."""

    def __init__(self, data_dir: Path) -> None:
        """Read the file for the first time.

        Raises:
            ConfigError: it is open to other users, or damaged.
        """
        self._data_dir = data_dir
        self._version = self._current_version()
        self._valid = _valid(issued_keys(data_dir))

    def by_id(self) -> Mapping[int, IssuedKey]:
        """Valid keys by id: none if the file cannot be read any more, and the log says why."""
        version = self._current_version()
        if version != self._version:
            self._version = version
            try:
                self._valid = _valid(issued_keys(self._data_dir))
            except ConfigError as error:
                self._valid = {}
                log.error("No issued key is valid: %s", error.message, extra={"event": "issued_keys_unreadable"})
        return self._valid

    def _current_version(self) -> tuple[int, ...]:
        """A value that changes whenever the file does; writing always makes a new file."""
        try:
            found = (self._data_dir / ISSUED_KEYS_FILE).stat()
        except OSError:
            return ()
        return found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode


def _valid(keys: list[IssuedKey]) -> dict[int, IssuedKey]:
    return {key.key_id: key for key in keys if key.revoked_at is None}


def _write(data_dir: Path, keys: list[IssuedKey]) -> None:
    write_private(data_dir / ISSUED_KEYS_FILE, msgspec.json.format(msgspec.json.encode(keys)).decode())


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """Hold the lock under which keys change. The directory is there already: `make_data_dir` makes it.

    Raises:
        ConfigError: the directory is not there, or cannot be written.
    """
    try:
        descriptor = os.open(data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"The key file {data_dir / ISSUED_KEYS_FILE} cannot be written ({error.strerror})") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
