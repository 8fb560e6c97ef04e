"""Keys and secrets as files of the data directory, and what a key looks like.

The server's own key is generated once and kept readable, for local tools of its owner. Keys for other people are in
`issued_keys`, as hashes alone.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from eztinker.errors import ConfigError
from eztinker.flushing import flush

KEY_FILE = "api_key"
SIGNING_SECRET_FILE = "signing_secret"
KEY_PREFIX = "tml-"
"""The official SDK refuses keys that start otherwise."""
SECRET_BYTES = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredKey:
    key: str
    is_new: bool
    """True for the one start that generated it, when it may be shown."""


def ensure_api_key(data_dir: Path) -> StoredKey:
    """The key of `data_dir`, generated on first use from 256 random bits.

    Raises:
        ConfigError: other users can read the file, it holds no key, or it cannot be written.
    """
    stored = read_api_key(data_dir)
    if stored is not None:
        return StoredKey(key=stored, is_new=False)
    key = KEY_PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    write_private(data_dir / KEY_FILE, key)
    return StoredKey(key=key, is_new=True)


def read_api_key(data_dir: Path) -> str | None:
    """The key kept in `data_dir`, or None where no server has started yet.

    Raises:
        ConfigError: other users can read the file, or it holds no key.
    """
    path = data_dir / KEY_FILE
    key = read_private(path)
    if key is not None:
        check_api_key(key, source=str(path))
    return key


def ensure_signing_secret(data_dir: Path) -> bytes:
    """The secret that signs what this server hands out, generated on first use from 256 random bits.

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


def check_api_key(key: str, *, source: str) -> None:
    """Refuse a key that the official SDK would not send; `source` says where it was set."""
    if not key.startswith(KEY_PREFIX) or len(key) == len(KEY_PREFIX) or not key.isascii() or not key.isprintable():
        raise ConfigError(f"The key in {source} must start with {KEY_PREFIX!r} and go on in printable ASCII characters")


def hash_key(key: str) -> bytes:
    """What is kept of a key. One round is enough: nobody tries 2^256 keys."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()


def read_private(path: Path) -> str | None:
    """The text of a file that belongs to its owner alone, or None if there is no such file.

    Raises:
        ConfigError: other users can read it, or this one cannot.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"The key file {path} cannot be read ({error.strerror}); run as its owner") from error
    if mode & 0o077:
        raise ConfigError(f"The key file {path} is open to other users (mode {mode:03o}); run: chmod 600 {path}")
    return text


def write_private(path: Path, text: str) -> None:
    """Put `text` in the place of the file at `path`, at once and durably, readable by its owner alone.

    Raises:
        ConfigError: the disk refuses it; what was there before is there still.
    """
    aside = path.with_name(f"{path.name}.tmp")
    try:
        aside.unlink(missing_ok=True)
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
        flush(aside)
        aside.replace(path)
        flush(path.parent)
    except OSError as error:
        raise ConfigError(
            f"The key file {path} cannot be written ({error.strerror}); see that its directory can be, and has room"
        ) from error
