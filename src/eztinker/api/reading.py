"""Request bodies: read up to a limit and no further, then decoded by their type."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from fastapi import Request

from eztinker.errors import InvalidInput, MalformedBody, TooLarge
from eztinker.protocol.compression import decompress_zstd
from eztinker.protocol.json_bodies import Body, decode_json

BodyT = TypeVar("BodyT", bound=Body)
DecodedT = TypeVar("DecodedT")

SMALL_BYTES = 1 << 16
"""Bodies up to this size are decoded in less time than it takes to hand them to a thread."""
MAX_JSON_BYTES = 1 << 20
MAX_SAMPLE_BYTES = 16 << 20
MAX_TRAINING_BYTES = 128 << 20
"""Of a forward_backward, before and after unpacking. Clients aim at 5 MB but send a larger datum in one piece."""


async def read_body(request: Request, *, max_bytes: int) -> bytes:
    """The body as sent.

    Raises:
        TooLarge: it has more than `max_bytes`; the rest is left unread.
    """
    too_large = TooLarge(f"The request body may have {max_bytes} bytes")
    if _declared_length(request) > max_bytes:
        raise too_large
    parts: list[bytes] = []
    num_bytes = 0
    async for part in request.stream():
        num_bytes += len(part)
        if num_bytes > max_bytes:
            raise too_large
        parts.append(part)
    return b"".join(parts)


async def read_training_body(request: Request) -> bytes:
    """The body of a forward_backward, unpacked if it came compressed."""
    body = await read_body(request, max_bytes=MAX_TRAINING_BYTES)
    encoding = request.headers.get("content-encoding", "identity")
    if encoding == "identity":
        return body
    if encoding != "zstd":
        raise InvalidInput(f"Content-Encoding must be zstd or absent, got {encoding!r}")
    return await asyncio.to_thread(decompress_zstd, body, max_bytes=MAX_TRAINING_BYTES)


async def decoded(decode: Callable[[bytes], DecodedT], body: bytes) -> DecodedT:
    """What `decode` makes of `body`: at once if it is small, else on a thread, so that no one waits for it."""
    return decode(body) if len(body) <= SMALL_BYTES else await asyncio.to_thread(decode, body)


async def read_json(request: Request, body_type: type[BodyT]) -> BodyT:
    """A small JSON body as its record."""
    return decode_json(await read_body(request, max_bytes=MAX_JSON_BYTES), body_type)


def _declared_length(request: Request) -> int:
    declared = request.headers.get("content-length", "0")
    if not (declared.isascii() and declared.isdigit()):
        raise MalformedBody(f"Content-Length must be a number, got {declared[:20]!r}")
    return int(declared)
