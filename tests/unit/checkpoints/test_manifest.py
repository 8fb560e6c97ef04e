"""Manifests: read as they were written, and any other byte is found."""

from __future__ import annotations

import hashlib
import json

import msgspec
import pytest

from eztinker.checkpoints.manifest import FORMAT_VERSION, Manifest, Part, decode_manifest, encode_manifest, sha256
from eztinker.errors import CheckpointDamaged
from eztinker.types import CheckpointKind, LoraSpec

MANIFEST = Manifest(
    tinker_path="tinker://m/weights/a",
    kind=CheckpointKind.TRAINING,
    base_model="tiny",
    lora=LoraSpec(rank=4, seed=2),
    step=3,
    parts={"weights": Part(size_bytes=5, sha256=sha256(b"12345")), "optimizer": Part(size_bytes=7, sha256="0")},
)


def test_a_manifest_is_read_as_it_was_written_and_always_written_alike():
    raw = encode_manifest(MANIFEST)
    assert decode_manifest(raw) == MANIFEST
    assert encode_manifest(decode_manifest(raw)) == raw
    assert MANIFEST.size_bytes == 12


def test_it_is_plain_json_that_ends_with_a_hash_of_the_rest():
    said = json.loads(encode_manifest(MANIFEST))
    assert list(said)[-1] == "sha256"
    rest = {name: value for name, value in said.items() if name != "sha256"}
    compact = json.dumps(rest, separators=(",", ":")).encode()
    assert said["sha256"] == hashlib.sha256(compact).hexdigest()


def test_every_flipped_bit_is_found():
    raw = encode_manifest(MANIFEST)
    for bit in range(8 * len(raw)):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CheckpointDamaged):
            decode_manifest(bytes(flipped))


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", encode_manifest(MANIFEST)[:-1], encode_manifest(MANIFEST) + b" "])
def test_a_manifest_that_is_cut_or_longer_is_damaged(raw: bytes):
    with pytest.raises(CheckpointDamaged, match="damaged"):
        decode_manifest(raw)


def test_one_of_a_newer_program_is_refused_with_what_to_do():
    newer = encode_manifest(msgspec.structs.replace(MANIFEST, format_version=FORMAT_VERSION + 1))
    with pytest.raises(CheckpointDamaged, match=f"says format {FORMAT_VERSION + 1}.*upgrade"):
        decode_manifest(newer)
