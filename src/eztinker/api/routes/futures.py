"""Outcomes of promises, by long poll."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from eztinker.api.auth import Owner, ServiceDep
from eztinker.api.bodies import RetrieveFutureBody
from eztinker.api.reading import read_json
from eztinker.protocol import sampling_codec, training_codec
from eztinker.service.operations import Done, Failure
from eztinker.service.plans import PROTOBUF
from eztinker.service.recovery import SAMPLE
from eztinker.service.service import Service

router = APIRouter()


@router.post("/retrieve_future")
async def retrieve_future(request: Request, service: ServiceDep, owner: Owner) -> Response:
    """The outcome, as soon as it is there; 408 if it is not within the hold time, and the client asks again."""
    body = await read_json(request, RetrieveFutureBody)
    hold_seconds = service.config.poll_hold_seconds
    with service.polls.held(owner):
        outcome = await service.operations.outcome(owner, body.request_id, hold_seconds=hold_seconds)
    match outcome:
        case Done() as done:
            return await _result(done, accepts=request.headers.get("accept", ""))
        case Failure() as failure:
            return JSONResponse({"error": failure.message, "category": failure.category, "code": failure.code})
        case None:
            return _not_yet(service)


async def _result(done: Done, *, accepts: str) -> Response:
    if done.media_type != PROTOBUF or PROTOBUF in accepts:
        return Response(done.body, media_type=done.media_type)
    as_json = sampling_codec.result_as_json if done.kind == SAMPLE else training_codec.result_as_json
    return JSONResponse(await asyncio.to_thread(as_json, done.body))


def _not_yet(service: Service) -> JSONResponse:
    """408 rather than a try_again body: the client asks again at once either way, and logs a warning for the latter."""
    if service.engine.ready is not None:
        state = {"queue_state": "active", "detail": "The result is not there yet"}
    else:
        reason = "the engine is starting"
        state = {"queue_state": "paused_capacity", "queue_state_reason": reason, "detail": reason}
    return JSONResponse(state, status_code=408)
