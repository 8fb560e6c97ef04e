"""Encryption of exports for the holders of certain keys, each file of the folder by itself in the age format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyrage import (  # a compiled module without type stubs
    RecipientError,  # pyright: ignore[reportAttributeAccessIssue]
    encrypt,  # pyright: ignore[reportAttributeAccessIssue]
    ssh,  # pyright: ignore[reportAttributeAccessIssue]
    x25519,  # pyright: ignore[reportAttributeAccessIssue]
)

from eztinker.errors import InvalidInput
from eztinker.redaction import without_secrets

SUFFIX = ".age"
MAX_RECIPIENTS = 10

Recipient = Any
"""A public key: pyrage's x25519.Recipient or ssh.Recipient."""


def parse_recipients(keys: Sequence[str]) -> list[Recipient]:
    """Public keys as age reads them: X25519 (`age1...`), or a line of an SSH public key file (Ed25519 or RSA).

    Raises:
        InvalidInput: there are too many keys, or one is not such a key; it is named by its index.
    """
    if len(keys) > MAX_RECIPIENTS:
        raise InvalidInput(
            f"At most {MAX_RECIPIENTS} age_encryption_recipients can read one export, got {len(keys)}",
            field="age_encryption_recipients",
        )
    return [_parse(place, key) for place, key in enumerate(keys)]


def encrypted(parts: Mapping[str, bytes], recipients: Sequence[Recipient]) -> dict[str, bytes]:
    """Each part as a file that every recipient can open by itself, its name with the age suffix."""
    return {f"{name}{SUFFIX}": encrypt(content, recipients) for name, content in parts.items()}


def _parse(place: int, key: str) -> Recipient:
    kind = ssh.Recipient if key.startswith("ssh-") else x25519.Recipient
    try:
        return kind.from_str(key)
    except RecipientError as error:
        raise InvalidInput(
            f"age_encryption_recipients[{place}] must be an age (age1...) or SSH (ssh-ed25519, ssh-rsa) public key, "
            f"{_shown(key)}",
            field="age_encryption_recipients",
        ) from error


def _shown(key: str) -> str:
    """A clause that quotes what was given instead of a public key, unless it is a secret key."""
    shown = without_secrets(key)
    if shown == key:
        return f"got {key[:100]!r}"
    return "got a secret key; give the public one that belongs to it, and take the secret one for known to others now"
