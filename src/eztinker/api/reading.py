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
from eztinker.api.error_responses import MAX_SHOWN_CHARS, RequestRefused
from eztinker.errors import EZTinkerError, MalformedBody, QueueFull, TooLarge
from eztinker.protocol.compression import decompress_zstd, unpacked_size
from eztinker.protocol.json_bodies import Body, decode_json, parse_object

BodyT = TypeVar("BodyT", bound=Body)
DecodedT = TypeVar("DecodedT")

SMALL_BYTES = 1 << 16
"""Size up to which a body is decoded on the event loop, which takes less time than handing it to a thread."""
FREE_BYTES = 4 << 10
"""Size up to which a body takes nothing from the budget: polls, heartbeats and steps must get through."""
JSON_TYPES = ("application/json", "text/json")
PROTOBUF_TYPE = "application/x-protobuf"
MAX_JSON_BYTES = 1 << 20
MAX_SAMPLE_BYTES = 16 << 20
MAX_TRAINING_BYTES = 128 << 20
"""Largest forward_backward in protobuf. Clients aim at 5 MB but send a larger datum in one piece."""
MAX_JSON_TRAINING_BYTES = 32 << 20
"""Largest forward_backward in JSON, where 5 MB of tensors take up to 26 MB, and eight times that once parsed."""
MAX_UNPACKED_BYTES = 32 << 20
"""Largest forward_backward after decompression: a compressed body of a few kilobytes must not take more memory."""
DECODED_FACTOR = 2
"""Budget that a batch takes, as a multiple of its size: for the body itself and for the arrays decoded from it."""
BODY_SECONDS = 300.0
"""Longest time that a body may take to arrive; the official client gives up on a submission after five minutes."""
_DECODER = ThreadPoolExecutor(1, thread_name_prefix="body-decoder")
"""One thread for large bodies: a body can take many times its size while it is decoded, and threads slow each other."""


async def read_body(request: Request, *, max_bytes: int, room: int = 1) -> bytearray:
    """The request body as sent.

    Args:
        room: bytes to take from the budget per byte of the body.
    Raises:
        TooLarge: the body has more than `max_bytes`.
        QueueFull: the budget has no room for the body now.
        RequestRefused: the body did not arrive in time.
    """
    refusal: EZTinkerError
    declared = _declared_length(request)
    parts = request.stream()  # can be iterated once: what is discarded is the part that was not read
    try:
        if declared <= max_bytes:
            _reserve(request, room * declared)
            return await _with_timeout(_receive(max_bytes, parts, request, declared, room))
        refusal = _too_large(max_bytes)
    except (TooLarge, QueueFull) as error:
        refusal = error
    await _with_timeout(_discard(parts, max_bytes))  # a client that is still writing may not see an answer
    raise refusal


async def drop_body(request: Request, *, max_bytes: int) -> None:
    """Receive a body and discard it.

    Raises:
        TooLarge: the body has more than `max_bytes`.
        RequestRefused: the body did not arrive in time.
    """
    if not await _with_timeout(_discard(request.stream(), max_bytes)):
        raise _too_large(max_bytes)


async def _with_timeout(reading: Coroutine[Any, Any, DecodedT]) -> DecodedT:
    """Await `reading` for at most BODY_SECONDS.

    Raises:
        RequestRefused: `reading` did not end in time.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await reading
    except TimeoutError as error:
        message = f"The request body must come within {BODY_SECONDS:.0f} s"
        raise RequestRefused(
            HTTPStatus.REQUEST_TIMEOUT, "body_too_slow", message, headers={"Connection": "close"}
        ) from error


async def _receive(
    max_bytes: int, parts: AsyncIterator[bytes], request: Request, declared: int, room: int
) -> bytearray:
    """The whole body, which may have up to `max_bytes`.

    Args:
        declared: bytes for which room is already taken; for more, room is taken as they arrive.
    Raises:
        TooLarge: the body has more than `max_bytes`.
        QueueFull: the budget has no room for the rest.
    """
    body = bytearray(declared)  # allocated once: joining a list of parts would hold the body twice
    num_bytes = 0
    async for part in parts:
        start, num_bytes = num_bytes, num_bytes + len(part)
        if num_bytes > max_bytes:
            raise _too_large(max_bytes)
        if num_bytes > len(body):
            _reserve(request, room * num_bytes)
        body[start:num_bytes] = part
    return body


async def _discard(parts: AsyncIterator[bytes], max_bytes: int) -> bool:
    """Discard the rest of a body; False if it has more than `max_bytes`, in which case what follows stays unread."""
    async for part in parts:
        max_bytes -= len(part)
        if max_bytes < 0:
            return False
    return True


def _reserve(request: Request, num_bytes: int) -> None:
    """Raise the request's hold on the budget to `num_bytes`; small bodies need none.

    Raises:
        QueueFull: the budget has no room.
    """
    hold: Hold | None = getattr(request.state, HOLD, None)  # absent where the application is called without middleware
    if hold is not None and num_bytes > FREE_BYTES:
        hold.take(request.state.owner, num_bytes - hold.num_bytes)


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"The request body may have {max_bytes} bytes")


async def read_training_body(request: Request) -> bytes | bytearray:
    """The body of a forward_backward, decompressed if need be."""
    _require(request, "content-type", (PROTOBUF_TYPE, *JSON_TYPES))
    _require(request, "content-encoding", ("identity", "zstd"))
    max_bytes = MAX_TRAINING_BYTES if is_protobuf(request) else MAX_JSON_TRAINING_BYTES
    body = await read_body(request, max_bytes=max_bytes, room=DECODED_FACTOR)
    if request.headers.get("content-encoding", "identity") == "identity":
        return body
    num_bytes = unpacked_size(body, max_bytes=MAX_UNPACKED_BYTES)
    _reserve(request, DECODED_FACTOR * (len(body) + num_bytes))
    return await decoded(partial(decompress_zstd, max_bytes=num_bytes), body, num_bytes=num_bytes)


def is_protobuf(request: Request) -> bool:
    return _value(request, "content-type", "") == PROTOBUF_TYPE


async def decoded(
    decode: Callable[[bytes | bytearray], DecodedT], body: bytes | bytearray, *, num_bytes: int | None = None
) -> DecodedT:
    """`decode(body)`: at once if the body is small, else on a thread, so that the event loop stays free.

    Args:
        num_bytes: size of the result, if it may be larger than the body.
    """
    if max(len(body), num_bytes or 0) <= SMALL_BYTES:
        return decode(body)
    return await asyncio.get_running_loop().run_in_executor(_DECODER, decode, body)


async def read_json(request: Request, body_type: type[BodyT]) -> BodyT:
    """A small JSON body, decoded and validated as `body_type`."""
    return await decoded(partial(decode_json, body_type=body_type), await read_json_bytes(request))


async def read_object(request: Request) -> dict[str, Any]:
    """A small JSON body as a dict, without validation."""
    return await decoded(parse_object, await read_json_bytes(request))


async def read_json_bytes(request: Request, *, max_bytes: int = MAX_JSON_BYTES) -> bytearray:
    """The bytes of a body that is declared as plain JSON or not at all.

    Raises:
        RequestRefused: the body is declared as something else.
    """
    _require(request, "content-type", JSON_TYPES)
    _require(request, "content-encoding", ("identity",))
    return await read_body(request, max_bytes=max_bytes)


def _require(request: Request, header: str, allowed: tuple[str, ...]) -> None:
    """Refuse a request whose `header` is present with a value that is not allowed."""
    if _value(request, header, allowed[0]) not in allowed:
        expected = " or ".join(allowed)
        message = f"{header.title()} must be {expected}, got {request.headers[header][:MAX_SHOWN_CHARS]!r}"
        raise RequestRefused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)


def _value(request: Request, header: str, default: str) -> str:
    """Value of a header without its parameters, in lower case."""
    return request.headers.get(header, default).partition(";")[0].strip().lower()


def _declared_length(request: Request) -> int:
    declared = request.headers.get("content-length", "0")
    if not (declared.isascii() and declared.isdigit()):
        raise MalformedBody(f"Content-Length must be a number, got {declared[:20]!r}")
    return int(declared)
