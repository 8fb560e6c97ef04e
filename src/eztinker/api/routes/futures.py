"""Futures: long polls for one outcome or for all of a sampling client, and cancellation."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from eztinker.api.auth import Owner, ServiceDep, router_with_key
from eztinker.api.bodies import CancelFutureBody, RetrieveFutureBody, RetrieveFuturesBody
from eztinker.api.reading import read_json
from eztinker.errors import InvalidInput
from eztinker.protocol import sampling_codec, training_codec
from eztinker.service.execution.futures import Done, Failure
from eztinker.service.execution.plans import PROTOBUF
from eztinker.service.execution.queue_state import QueueState
from eztinker.service.sampling.completions import SettledOperation
from eztinker.types import OperationKind

router = router_with_key()

MAX_UNANNOUNCED_BYTES = 1 << 20
"""Size above which a result is announced first, to clients that ask for it."""
MIN_HOLD_SHARE = 2 / 3
"""Shortest hold of a poll as a share of the hold time. Holds are random, so that polls do not all return together."""


@router.post("/retrieve_future")
async def retrieve_future(request: Request, service: ServiceDep, owner: Owner) -> Response:
    """The outcome as soon as there is one; 408 if there is none within the hold time, and the client polls again.

    A client that asks for it gets only the size of a large result first, and then polls for the result itself.
    """
    body = await read_json(request, RetrieveFutureBody)
    hold_seconds = service.config.poll_hold_seconds * random.uniform(MIN_HOLD_SHARE, 1)
    with service.polls.held(owner):
        outcome = await service.futures.outcome(owner, body.request_id, hold_seconds=hold_seconds)
    match outcome:
        case Done() as done if body.allow_metadata_only and len(done.body) > MAX_UNANNOUNCED_BYTES:
            return JSONResponse({"status": "complete_metadata", "response_payload_size": len(done.body)})
        case Done() as done:
            return await _result(done, accepts=request.headers.get("accept", ""))
        case Failure() as failure:
            return JSONResponse({"error": failure.message, "category": failure.category, "code": failure.code})
        case None:
            return _not_yet(service.queue_state(owner))


@router.post("/retrieve_futures")
async def retrieve_futures(request: Request, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    """Ids of a client's samples that have ended; their results are fetched with retrieve_future."""
    body = await read_json(request, RetrieveFuturesBody)
    hold_seconds = service.config.poll_hold_seconds
    if body.timeout is not None:
        if not body.timeout >= 0:
            raise InvalidInput(f"timeout must be 0 or a positive number, got {body.timeout}", field="timeout")
        hold_seconds = min(body.timeout, hold_seconds)
    with service.polls.held(owner):
        announcement = await service.completions.announced(
            owner,
            body.target.sampling_session_id,
            body.target.cloned_sampler_id,
            cursor=body.prev_cursor,
            fetched=body.retrieved_request_ids,
            hold_seconds=hold_seconds,
        )
    completions = [_completion(completion) for completion in announcement.completions]
    return {"completions": completions, "cursor": announcement.cursor}


@router.post("/cancel_future")
async def cancel_future(request: Request, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    """Cancel a sample, if the id is one of a sample that has not ended; the answer is always the same."""
    body = await read_json(request, CancelFutureBody)
    service.sampling.cancel(owner, body.request_id)
    return {}


def _completion(completion: SettledOperation) -> dict[str, Any]:
    if not completion.has_result:
        return {"state": "failed", "request_id": completion.op_id}
    size = completion.num_bytes
    return {"state": "finished", "request_id": completion.op_id, "response_payload_uncompressed_size": size}


async def _result(done: Done, *, accepts: str) -> Response:
    if done.media_type != PROTOBUF or PROTOBUF in accepts:
        return Response(done.body, media_type=done.media_type)
    as_json = sampling_codec.result_as_json if done.kind is OperationKind.SAMPLE else training_codec.result_as_json
    return JSONResponse(await asyncio.to_thread(as_json, done.body))


def _not_yet(state: QueueState) -> JSONResponse:
    """A 408, after which the client polls again at once, as after a try_again body, but logs no warning."""
    body = {"queue_state": state.queue, "detail": state.reason or "The result is not there yet"}
    if state.reason is not None:
        body["queue_state_reason"] = state.reason
    return JSONResponse(body, status_code=408)
