"""Sampling sessions and samples."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from eztinker.api.auth import Owner, ServiceDep, router_with_key
from eztinker.api.bodies import CreateSamplingSessionBody, JoinSamplingSessionBody
from eztinker.api.reading import MAX_SAMPLE_BYTES, decoded, read_json, read_json_bytes
from eztinker.protocol.sampling_codec import decode_request

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


@router.post("/asample")
async def asample(request: Request, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    body = await read_json_bytes(request, max_bytes=MAX_SAMPLE_BYTES)
    promise = await service.sampling.sample(owner, await decoded(decode_request, body))
    return {"request_id": promise.op_id, "sample_sequence_ids": promise.sequence_ids}
