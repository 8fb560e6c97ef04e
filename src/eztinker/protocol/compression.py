"""Decompression of request bodies, with a bound on their size."""

from __future__ import annotations

import zstandard

from eztinker.errors import MalformedBody, TooLarge


def unpacked_size(body: bytes | bytearray, *, max_bytes: int) -> int:
    """Size of a zstd frame's content in bytes, as its header must declare it. Decompresses nothing.

    Raises:
        MalformedBody: `body` is no frame, or the frame does not declare its size.
        TooLarge: the size is more than `max_bytes`.
    """
    try:
        content_bytes = zstandard.frame_content_size(body)
    except zstandard.ZstdError as error:
        raise _unreadable(error) from error
    if content_bytes < 0:
        raise MalformedBody("A zstd body must declare its content size in the frame header")
    if content_bytes > max_bytes:
        raise TooLarge(
            f"The body unpacks to {content_bytes} bytes; packed bodies may unpack to {max_bytes}, "
            "so send it in parts or as it is"
        )
    return content_bytes


def decompress_zstd(body: bytes | bytearray, *, max_bytes: int) -> bytes:
    """The content of one zstd frame of at most `max_bytes`, which the frame's header must declare.

    The declared size is checked before anything is allocated, so a small body cannot unpack to a huge one.

    Raises:
        MalformedBody: `body` is not one complete frame, or the frame does not declare its size.
        TooLarge: the content is larger than `max_bytes`.
    """
    unpacked_size(body, max_bytes=max_bytes)
    try:
        return zstandard.ZstdDecompressor().decompress(body, max_output_size=max_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise _unreadable(error) from error


def _unreadable(error: zstandard.ZstdError) -> MalformedBody:
    return MalformedBody(f"The zstd body cannot be unpacked: {error}")
