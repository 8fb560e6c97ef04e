"""The manifest of a checkpoint: what it is and the hash of every part. Its presence means the checkpoint is whole."""

from __future__ import annotations

import msgspec

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


def encode_manifest(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest))


def decode_manifest(raw: bytes) -> Manifest:
    """Raises msgspec.DecodeError where the bytes are no manifest."""
    return msgspec.json.decode(raw, type=Manifest)
