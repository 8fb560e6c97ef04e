"""What a key looks like, and what is kept of one that was handed out."""

from __future__ import annotations

import hashlib
import secrets

from eztinker.errors import ConfigError

KEY_PREFIX = "tml-"
"""The official SDK refuses keys that start otherwise."""
SECRET_BYTES = 32


def new_key(label: str = "") -> str:
    """A key of 256 random bits that no one has; `label` stands readable before them."""
    return KEY_PREFIX + label + secrets.token_urlsafe(SECRET_BYTES)


def check_api_key(key: str, *, source: str) -> None:
    """Refuse a key that the official SDK would not send; `source` says where it was set."""
    if not key.startswith(KEY_PREFIX) or len(key) == len(KEY_PREFIX) or not key.isascii() or not key.isprintable():
        raise ConfigError(f"The key in {source} must start with {KEY_PREFIX!r} and go on in printable ASCII characters")


def hash_key(key: str) -> bytes:
    """What is kept of a key. One round is enough: nobody tries 2^256 keys."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()
