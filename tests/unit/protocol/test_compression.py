"""Compressed bodies: one frame, no bombs."""

from __future__ import annotations

import pytest
import zstandard

from eztinker.errors import MalformedBody, TooLarge
from eztinker.protocol.compression import decompress_zstd

CONTENT = b"tinker" * 1000
FRAME = zstandard.compress(CONTENT)


def test_a_frame_unpacks_to_its_content():
    assert decompress_zstd(FRAME, max_bytes=len(CONTENT)) == CONTENT


def test_a_frame_that_unpacks_to_more_than_the_limit_is_refused_unread():
    bomb = zstandard.compress(bytes(50_000_000))
    assert len(bomb) < 10_000
    with pytest.raises(TooLarge, match="50000000 bytes"):
        decompress_zstd(bomb, max_bytes=1_000_000)


@pytest.mark.parametrize("body", [b"", b"not zstd", FRAME[:-3], FRAME + b"tail", FRAME[:10] + b"\0" * 20])
def test_anything_but_one_whole_frame_is_malformed(body: bytes):
    with pytest.raises(MalformedBody):
        decompress_zstd(body, max_bytes=1_000_000)


def test_a_frame_must_declare_its_size():
    stream = zstandard.ZstdCompressor().compressobj()
    with pytest.raises(MalformedBody, match="declare"):
        decompress_zstd(stream.compress(CONTENT) + stream.flush(), max_bytes=1_000_000)
