"""Request bodies: read up to a limit and no further, then decoded by their type."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import TypeVar

from fastapi import Request

from eztinker.api.errors import MAX_SHOWN_CHARS, Refused
from eztinker.errors import MalformedBody, TooLarge
from eztinker.protocol.compression import decompress_zstd
from eztinker.protocol.json_bodies import Body, decode_json

BodyT = TypeVar("BodyT", bound=Body)
DecodedT = TypeVar("DecodedT")

SMALL_BYTES = 1 << 16
"""Bodies up to this size are decoded in less time than it takes to hand them to a thread."""
JSON_TYPES = ("application/json", "text/json")
MAX_JSON_BYTES = 1 << 20
MAX_SAMPLE_BYTES = 16 << 20
MAX_TRAINING_BYTES = 128 << 20
"""Of a forward_backward. Clients aim at 5 MB but send a larger datum in one piece."""
MAX_UNPACKED_BYTES = 32 << 20
"""Of one that comes packed, once it is unpacked: a body of a few kilobytes must not take more memory than that."""
BODY_SECONDS = 300.0
"""The official client gives up on a submission after five minutes."""


async def read_body(request: Request, *, max_bytes: int) -> bytes:
    """The body as sent.

    Raises:
        TooLarge: it has more than `max_bytes`.
        Refused: it did not come in time.
    """
    stream = request.stream()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await _up_to(max_bytes, stream) if _declared_length(request) <= max_bytes else None
            if body is None:
                await _skip(max_bytes, stream)  # a client that is still writing may not see an answer
    except TimeoutError as error:
        message = f"The request body must come within {BODY_SECONDS:.0f} s"
        raise Refused(HTTPStatus.REQUEST_TIMEOUT, "body_too_slow", message, headers={"Connection": "close"}) from error
    if body is None:
        raise TooLarge(f"The request body may have {max_bytes} bytes")
    return body


async def _up_to(max_bytes: int, stream: AsyncIterator[bytes]) -> bytes | None:
    """All that `stream` brings, or None as soon as it is more than `max_bytes`."""
    parts: list[bytes] = []
    num_bytes = 0
    async for part in stream:
        num_bytes += len(part)
        if num_bytes > max_bytes:
            return None
        parts.append(part)
    return b"".join(parts)


async def _skip(max_bytes: int, stream: AsyncIterator[bytes]) -> None:
    """Drop what `stream` brings, to its end or until it was more than `max_bytes`."""
    async for part in stream:
        max_bytes -= len(part)
        if max_bytes < 0:
            return


async def read_training_body(request: Request) -> bytes:
    """The body of a forward_backward, unpacked if it came compressed."""
    _require(request, "content-type", ("application/x-protobuf", *JSON_TYPES))
    _require(request, "content-encoding", ("identity", "zstd"))
    body = await read_body(request, max_bytes=MAX_TRAINING_BYTES)
    if request.headers.get("content-encoding", "identity") == "identity":
        return body
    return await asyncio.to_thread(decompress_zstd, body, max_bytes=MAX_UNPACKED_BYTES)


async def decoded(decode: Callable[[bytes], DecodedT], body: bytes) -> DecodedT:
    """What `decode` makes of `body`: at once if it is small, else on a thread, so that no one waits for it."""
    return decode(body) if len(body) <= SMALL_BYTES else await asyncio.to_thread(decode, body)


async def read_json(request: Request, body_type: type[BodyT]) -> BodyT:
    """A small JSON body as its record."""
    return decode_json(await read_json_bytes(request, max_bytes=MAX_JSON_BYTES), body_type)


async def read_json_bytes(request: Request, *, max_bytes: int) -> bytes:
    """A body that says it is plain JSON, or says nothing of itself.

    Raises:
        Refused: it says that it is something else.
    """
    _require(request, "content-type", JSON_TYPES)
    _require(request, "content-encoding", ("identity",))
    return await read_body(request, max_bytes=max_bytes)


def _require(request: Request, header: str, allowed: tuple[str, ...]) -> None:
    """One of the `allowed` values, or none."""
    value = request.headers.get(header, allowed[0])
    if value.partition(";")[0].strip().lower() not in allowed:
        expected = " or ".join(allowed)
        message = f"{header.title()} must be {expected}, got {value[:MAX_SHOWN_CHARS]!r}"
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)


def _declared_length(request: Request) -> int:
    declared = request.headers.get("content-length", "0")
    if not (declared.isascii() and declared.isdigit()):
        raise MalformedBody(f"Content-Length must be a number, got {declared[:20]!r}")
    return int(declared)
