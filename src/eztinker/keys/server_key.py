"""The server's own key and its signing secret, generated once into the data directory.

The key stays readable there, for local tools of its owner. Keys for other people are in `issued_keys`, as hashes alone.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from eztinker.errors import ConfigError
from eztinker.keys.key_format import SECRET_BYTES, check_api_key, new_key
from eztinker.keys.private_files import read_private, write_private

KEY_FILE = "api_key"
SIGNING_SECRET_FILE = "signing_secret"


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredKey:
    """The server's own key."""

    key: str
    is_new: bool
    """True for the start that generated it, which may show it."""


def ensure_api_key(data_dir: Path) -> StoredKey:
    """Return the key kept in `data_dir`, generated on first use from 256 random bits.

    Raises:
        ConfigError: other users can read the file, it holds no key, or it cannot be written.
    """
    stored = read_api_key(data_dir)
    if stored is not None:
        return StoredKey(key=stored, is_new=False)
    key = new_key()
    write_private(data_dir / KEY_FILE, key)
    return StoredKey(key=key, is_new=True)


def read_api_key(data_dir: Path) -> str | None:
    """Read the key kept in `data_dir`; None where no server has started yet.

    Raises:
        ConfigError: other users can read the file, or it holds no key.
    """
    path = data_dir / KEY_FILE
    key = read_private(path)
    if key is not None:
        check_api_key(key, source=str(path))
    return key


def ensure_signing_secret(data_dir: Path) -> bytes:
    """Return the secret that signs tokens and links, generated on first use from 256 random bits.

    Raises:
        ConfigError: other users can read the file, it was cut short, or it cannot be written.
    """
    path = data_dir / SIGNING_SECRET_FILE
    stored = read_private(path)
    if stored is None:
        stored = secrets.token_hex(SECRET_BYTES)
        write_private(path, stored)
    if len(stored) < 2 * SECRET_BYTES:
        raise ConfigError(f"The file {path} does not hold a secret; remove it, and the next start makes a new one")
    return stored.encode()
