"""The manifest of a checkpoint: what it is and the hash of every part. Its presence means the checkpoint is whole.

The file ends with a hash of the rest of it, so that it vouches for itself as it does for the parts.
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
    """Where it was saved; a copy elsewhere keeps it."""
    kind: CheckpointKind
    base_model: str
    lora: LoraSpec
    step: int
    """Optimizer steps behind the weights."""
    parts: dict[str, Part]
    """By file name."""
    format_version: int = FORMAT_VERSION

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts.values())


class _Format(msgspec.Struct):
    """What can be read of a manifest of any version."""

    format_version: int


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of the file, the same for the same manifest."""
    fields = msgspec.to_builtins(manifest)
    return msgspec.json.format(msgspec.json.encode(fields | {"sha256": sha256(msgspec.json.encode(fields))}))


def decode_manifest(raw: bytes) -> Manifest:
    """The manifest in `raw`, if every bit is as it was written.

    Raises:
        CheckpointDamaged: one is not, or a newer version has written it.
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
