"""The form of a key, and the hash that is kept of it."""

from __future__ import annotations

import hashlib
import secrets

from eztinker.errors import ConfigError

KEY_PREFIX = "tml-"
"""The official SDK refuses keys that start otherwise."""
SECRET_BYTES = 32


def new_key(label: str = "") -> str:
    """Generate a key of 256 random bits; `label` stands readable before them."""
    return KEY_PREFIX + label + secrets.token_urlsafe(SECRET_BYTES)


def check_api_key(key: str, *, source: str) -> None:
    """Refuse a key that the official SDK would not send; `source` says where it was set."""
    if not key.startswith(KEY_PREFIX) or len(key) == len(KEY_PREFIX) or not key.isascii() or not key.isprintable():
        raise ConfigError(f"The key in {source} must start with {KEY_PREFIX!r} and go on in printable ASCII characters")


def hash_key(key: str) -> bytes:
    """Hash that is kept of a key. One round is enough: 2^256 keys cannot be tried."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()
