"""Sampling sessions and samples."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import orjson
from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from eztinker.api.auth import Owner, ServiceDep, router_with_key
from eztinker.api.bodies import CreateSamplingSessionBody, JoinSamplingSessionBody
from eztinker.api.reading import MAX_SAMPLE_BYTES, decoded, read_json, read_json_bytes
from eztinker.protocol.sampling_codec import decode_request
from eztinker.service.execution.futures import Failure
from eztinker.service.sampling.sample_streams import Drawn, SampleStream

router = router_with_key()


@router.post("/create_sampling_session")
async def create_sampling_session(request: Request, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    body = await read_json(request, CreateSamplingSessionBody)
    sampler = await service.sampling.create_session(
        owner,
        session_id=body.session_id,
        seq_id=body.sampling_session_seq_id,
        base_model=body.base_model,
        model_path=body.model_path,
    )
    return {"type": "create_sampling_session", "sampling_session_id": sampler.sampling_session_id}


@router.post("/join_sampling_session")
async def join_sampling_session(request: Request, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    body = await read_json(request, JoinSamplingSessionBody)
    number = await service.sampling.join(owner, body.sampling_session_id)
    return {"type": "join_sampling_session", "client_counter": number}


@router.get("/samplers/{sampler_id}")
async def get_sampler(sampler_id: str, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    sampler = await service.sampling.sampler(owner, sampler_id)
    return {
        "sampler_id": sampler_id,
        "base_model": sampler.sampling_session.base_model,
        "model_path": sampler.model_path,
    }


@router.post("/stream_sample")
async def stream_sample(request: Request, service: ServiceDep, owner: Owner) -> StreamingResponse:
    """Stream a sample as lines of JSON while its tokens are drawn; an addition of ours to the protocol.

    The body is that of an asample. The last line has a `stop_reason` or an `error`. A client that disconnects cancels
    the sample.
    """
    body = await read_json_bytes(request, max_bytes=MAX_SAMPLE_BYTES)
    stream = await service.sampling.stream(owner, await decoded(decode_request, body))
    return _Streamed(stream)


class _Streamed(StreamingResponse):
    """A streaming response that closes its sample even if the client disconnects before the first line."""

    def __init__(self, stream: SampleStream) -> None:
        super().__init__(_lines(stream), media_type="application/x-ndjson")
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.closing(self._stream):
            await super().__call__(scope, receive, send)


async def _lines(stream: SampleStream) -> AsyncIterator[bytes]:
    async with contextlib.aclosing(stream.drawn()) as drawn:
        async for piece in drawn:
            yield orjson.dumps(_as_json(piece)) + b"\n"


def _as_json(piece: Drawn | Failure) -> dict[str, Any]:
    if isinstance(piece, Failure):
        return {"error": {"category": piece.category, "code": piece.code, "message": piece.message}}
    return {"tokens": piece.tokens} | ({"stop_reason": piece.stop_reason} if piece.stop_reason else {})


@router.post("/asample")
async def asample(request: Request, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    body = await read_json_bytes(request, max_bytes=MAX_SAMPLE_BYTES)
    future = await service.sampling.sample(owner, await decoded(decode_request, body))
    return {"request_id": future.op_id, "sample_sequence_ids": future.sequence_ids}
