"""The API key of a local server: generated once, kept in its data directory for the owner's eyes alone."""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from eztinker.errors import ConfigError

KEY_FILE = "api_key"
KEY_PREFIX = "tml-"
"""The official SDK refuses keys that start otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredKey:
    key: str
    is_new: bool
    """True for the one start that generated it, when it may be shown."""


def ensure_api_key(data_dir: Path) -> StoredKey:
    """The key of `data_dir`, generated on first use from 256 random bits.

    Raises:
        ConfigError: other users can read the file, or it holds no key.
    """
    stored = read_api_key(data_dir)
    if stored is not None:
        return StoredKey(key=stored, is_new=False)
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    descriptor = os.open(data_dir / KEY_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(key + "\n")
        file.flush()
        os.fsync(file.fileno())
    return StoredKey(key=key, is_new=True)


def read_api_key(data_dir: Path) -> str | None:
    """The key kept in `data_dir`, or None where no server has started yet.

    Raises:
        ConfigError: other users can read the file, or it holds no key.
    """
    path = data_dir / KEY_FILE
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        key = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"The key file {path} cannot be read ({error.strerror}); run as its owner") from error
    if mode & 0o077:
        raise ConfigError(f"The key file {path} is open to other users (mode {mode:03o}); run: chmod 600 {path}")
    check_api_key(key, source=str(path))
    return key


def check_api_key(key: str, *, source: str) -> None:
    """Refuse a key that the official SDK would not send; `source` says where it was set."""
    if not key.startswith(KEY_PREFIX) or len(key) == len(KEY_PREFIX) or not key.isascii() or not key.isprintable():
        raise ConfigError(f"The key in {source} must start with {KEY_PREFIX!r} and go on in printable ASCII characters")
