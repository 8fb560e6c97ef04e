"""The manifest of a checkpoint, with the hash of every part. Its presence means that the checkpoint is complete.

The file ends with a hash of the rest of itself, so that damage to it is found as well.
"""

from __future__ import annotations

import hashlib

import msgspec

from eztinker.errors import CheckpointDamaged
from eztinker.types import CheckpointKind, LoraSpec, Record

MANIFEST = "manifest.json"
FORMAT_VERSION = 1


class Part(Record):
    """One file of a checkpoint."""

    size_bytes: int
    sha256: str


class Manifest(Record):
    tinker_path: str
    """Path under which the checkpoint was first saved; a copy keeps it."""
    kind: CheckpointKind
    base_model: str
    lora: LoraSpec
    step: int
    """Number of optimizer steps behind the weights."""
    parts: dict[str, Part]
    """Parts by file name."""
    format_version: int = FORMAT_VERSION

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts.values())


class _Format(msgspec.Struct):
    """The field that manifests of every version have."""

    format_version: int


def encode_manifest(manifest: Manifest) -> bytes:
    """Serialize a manifest; equal manifests give equal bytes."""
    fields = msgspec.to_builtins(manifest)
    return msgspec.json.format(msgspec.json.encode(fields | {"sha256": sha256(msgspec.json.encode(fields))}))


def decode_manifest(raw: bytes) -> Manifest:
    """Parse a manifest and verify its own hash.

    Raises:
        CheckpointDamaged: a bit differs from what was written, or a newer version has written it.
    """
    try:
        version = msgspec.json.decode(raw, type=_Format).format_version
        if version > FORMAT_VERSION:
            raise CheckpointDamaged(
                f"{MANIFEST} says format {version}, and this version reads up to {FORMAT_VERSION}; upgrade, unless the "
                "file is damaged"
            )
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CheckpointDamaged(f"{MANIFEST} is damaged: {error}") from error
    if encode_manifest(manifest) != raw:
        raise CheckpointDamaged(f"{MANIFEST} of {manifest.tinker_path} is damaged: it differs from what was written")
    return manifest


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
