"""Request bodies: read up to a limit and no further, then decoded by their type."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import Request

from eztinker.api.body_budget import HOLD, Hold
from eztinker.api.errors import MAX_SHOWN_CHARS, Refused
from eztinker.errors import EZTinkerError, MalformedBody, QueueFull, TooLarge
from eztinker.protocol.compression import decompress_zstd, unpacked_size
from eztinker.protocol.json_bodies import Body, decode_json, parse_object

BodyT = TypeVar("BodyT", bound=Body)
DecodedT = TypeVar("DecodedT")

SMALL_BYTES = 1 << 16
"""Bodies up to this size are decoded in less time than it takes to hand them to a thread."""
FREE_BYTES = 4 << 10
"""Of a body that needs no room of the budget: polls, heartbeats and steps, which must get through."""
JSON_TYPES = ("application/json", "text/json")
PROTOBUF_TYPE = "application/x-protobuf"
MAX_JSON_BYTES = 1 << 20
MAX_SAMPLE_BYTES = 16 << 20
MAX_TRAINING_BYTES = 128 << 20
"""Of a forward_backward in protobuf. Clients aim at 5 MB but send a larger datum in one piece."""
MAX_JSON_TRAINING_BYTES = 32 << 20
"""Of one in JSON, whose 5 MB take up to 26: numbers become objects while they are read, eight times as large."""
MAX_UNPACKED_BYTES = 32 << 20
"""Of one that comes packed, once it is unpacked: a body of a few kilobytes must not take more memory than that."""
DECODED_FACTOR = 2
"""Room that a batch takes, by its size: for itself and for the arrays that it becomes."""
BODY_SECONDS = 300.0
"""The official client gives up on a submission after five minutes."""
_DECODER = ThreadPoolExecutor(1, thread_name_prefix="body-decoder")
"""One body at a time: what it is while it is read can be many times what it was, and threads slow each other down."""


async def read_body(request: Request, *, max_bytes: int, room: int = 1) -> bytearray:
    """The body as sent.

    Args:
        room: bytes to take from the budget for each of the body's.
    Raises:
        TooLarge: it has more than `max_bytes`.
        QueueFull: there is no room for it now.
        Refused: it did not come in time.
    """
    refusal: EZTinkerError
    declared = _declared_length(request)
    parts = request.stream()  # which is there once: what is skipped is what has not been read
    try:
        if declared <= max_bytes:
            _hold(request, room * declared)
            return await _in_time(_up_to(max_bytes, parts, request, declared, room))
        refusal = _too_large(max_bytes)
    except (TooLarge, QueueFull) as error:
        refusal = error
    await _in_time(_skip(parts, max_bytes))  # a client that is still writing may not see an answer
    raise refusal


async def drop_body(request: Request, *, max_bytes: int) -> None:
    """Let a body go by that nobody reads.

    Raises:
        TooLarge, Refused: as of `read_body`.
    """
    if not await _in_time(_skip(request.stream(), max_bytes)):
        raise _too_large(max_bytes)


async def _in_time(reading: Coroutine[Any, Any, DecodedT]) -> DecodedT:
    """
    Raises:
        Refused: `reading` did not end in time.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await reading
    except TimeoutError as error:
        message = f"The request body must come within {BODY_SECONDS:.0f} s"
        raise Refused(HTTPStatus.REQUEST_TIMEOUT, "body_too_slow", message, headers={"Connection": "close"}) from error


async def _up_to(max_bytes: int, parts: AsyncIterator[bytes], request: Request, declared: int, room: int) -> bytearray:
    """All that comes.

    Args:
        declared: the bytes that room was taken for; for more, it is taken as they come.
    Raises:
        TooLarge: it is more than `max_bytes`.
        QueueFull: there is no room for the rest.
    """
    body = bytearray(declared)  # at once: a list of its parts, and they put together, would be it twice
    num_bytes = 0
    async for part in parts:
        start, num_bytes = num_bytes, num_bytes + len(part)
        if num_bytes > max_bytes:
            raise _too_large(max_bytes)
        if num_bytes > len(body):
            _hold(request, room * num_bytes)
        body[start:num_bytes] = part
    return body


async def _skip(parts: AsyncIterator[bytes], max_bytes: int) -> bool:
    """Drop what comes, to its end or, in which case it is False, until it was more than `max_bytes`."""
    async for part in parts:
        max_bytes -= len(part)
        if max_bytes < 0:
            return False
    return True


def _hold(request: Request, num_bytes: int) -> None:
    """Have room for so many bytes in all; a few are free.

    Raises:
        QueueFull: there is none.
    """
    hold: Hold | None = getattr(request.state, HOLD, None)  # an application that is called by hand has none
    if hold is not None and num_bytes > FREE_BYTES:
        hold.take(request.state.owner, num_bytes - hold.num_bytes)


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"The request body may have {max_bytes} bytes")


async def read_training_body(request: Request) -> bytes | bytearray:
    """The body of a forward_backward, unpacked if it came compressed."""
    _require(request, "content-type", (PROTOBUF_TYPE, *JSON_TYPES))
    _require(request, "content-encoding", ("identity", "zstd"))
    max_bytes = MAX_TRAINING_BYTES if is_protobuf(request) else MAX_JSON_TRAINING_BYTES
    body = await read_body(request, max_bytes=max_bytes, room=DECODED_FACTOR)
    if request.headers.get("content-encoding", "identity") == "identity":
        return body
    num_bytes = unpacked_size(body, max_bytes=MAX_UNPACKED_BYTES)
    _hold(request, DECODED_FACTOR * (len(body) + num_bytes))
    return await decoded(partial(decompress_zstd, max_bytes=num_bytes), body, num_bytes=num_bytes)


def is_protobuf(request: Request) -> bool:
    return _value(request, "content-type", "") == PROTOBUF_TYPE


async def decoded(
    decode: Callable[[bytes | bytearray], DecodedT], body: bytes | bytearray, *, num_bytes: int | None = None
) -> DecodedT:
    """What `decode` makes of `body`: at once if that is small, else on a thread, so that no one waits for it.

    Args:
        num_bytes: its size once decoded, if that may be another.
    """
    if max(len(body), num_bytes or 0) <= SMALL_BYTES:
        return decode(body)
    return await asyncio.get_running_loop().run_in_executor(_DECODER, decode, body)


async def read_json(request: Request, body_type: type[BodyT]) -> BodyT:
    """A small JSON body as its record."""
    return await decoded(partial(decode_json, body_type=body_type), await read_json_bytes(request))


async def read_object(request: Request) -> dict[str, Any]:
    """A small JSON body as it is."""
    return await decoded(parse_object, await read_json_bytes(request))


async def read_json_bytes(request: Request, *, max_bytes: int = MAX_JSON_BYTES) -> bytearray:
    """A body that says it is plain JSON, or says nothing of itself.

    Raises:
        Refused: it says that it is something else.
    """
    _require(request, "content-type", JSON_TYPES)
    _require(request, "content-encoding", ("identity",))
    return await read_body(request, max_bytes=max_bytes)


def _require(request: Request, header: str, allowed: tuple[str, ...]) -> None:
    """One of the `allowed` values, or none."""
    if _value(request, header, allowed[0]) not in allowed:
        expected = " or ".join(allowed)
        message = f"{header.title()} must be {expected}, got {request.headers[header][:MAX_SHOWN_CHARS]!r}"
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)


def _value(request: Request, header: str, default: str) -> str:
    """A header without its parameters."""
    return request.headers.get(header, default).partition(";")[0].strip().lower()


def _declared_length(request: Request) -> int:
    declared = request.headers.get("content-length", "0")
    if not (declared.isascii() and declared.isdigit()):
        raise MalformedBody(f"Content-Length must be a number, got {declared[:20]!r}")
    return int(declared)
