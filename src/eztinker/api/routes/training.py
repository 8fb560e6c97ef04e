"""Training runs and their numbered operations. Every answer here is a future, except get_info's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from fastapi import Request

from eztinker.api.access_tokens import lender
from eztinker.api.auth import Owner, ServiceDep, router_with_key
from eztinker.api.bodies import (
    CreateModelBody,
    LoadWeightsBody,
    ModelBody,
    OptimStepBody,
    SaveBody,
    SaveExternalBody,
    SaveForSamplerBody,
    SaveWeightsBody,
    optimizer_family,
)
from eztinker.api.reading import decoded, is_protobuf, read_json, read_object, read_training_body
from eztinker.errors import InvalidInput, Unsupported
from eztinker.protocol.json_bodies import Body, convert_object
from eztinker.protocol.training_codec import decode_json, decode_protobuf
from eztinker.service.service import Service
from eztinker.service.training.training_runs import BaseModel, LoraRequest, NewRun
from eztinker.settings.addresses import is_loopback
from eztinker.types import OperationKind

router = router_with_key()

BodyT = TypeVar("BodyT", bound=Body)


@router.post("/create_model")
async def create_model(request: Request, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    body = await read_json(request, CreateModelBody)
    lora = body.lora_config
    new = NewRun(session_id=body.session_id, model_seq_id=body.model_seq_id, user_metadata=body.user_metadata)
    op_id = await service.runs.create(
        owner,
        new,
        base_model=body.base_model,
        lora=LoraRequest(
            rank=lora.rank,
            seed=lora.seed,
            train_attn=lora.train_attn,
            train_mlp=lora.train_mlp,
            train_unembed=lora.train_unembed,
        ),
        optimizer_family=optimizer_family(body.optimizer_config),
    )
    return _future(op_id, new.model_id)


@router.post("/get_info")
async def get_info(request: Request, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    body = await read_json(request, ModelBody)
    model = await service.runs.meant(owner, body.model_id)
    base_model = service.runs.base_model(model)
    return {
        "type": "get_info",
        "model_id": model.model_id,
        "model_name": model.base_model,
        "model_data": {"model_name": model.base_model, "tokenizer_id": _tokenizer_id(base_model, service)},
        "optimizer_config": {"type": "adamw"},
        "is_lora": True,
        "lora_rank": model.rank,
    }


@router.post("/unload_model")
async def unload_model(request: Request, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    body = await read_json(request, ModelBody)
    return _future(await service.runs.unload(owner, body.model_id), body.model_id)


@router.post("/forward_backward")
async def forward_backward(request: Request, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    """Run one pass with gradients; the body is protobuf from current clients, JSON from older ones."""
    return await _forward_backward(request, service, owner, forward_only=False)


@router.post("/forward")
async def forward(request: Request, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    """Run one pass without gradients, as clients before protobuf ask for it."""
    return await _forward_backward(request, service, owner, forward_only=True)


@router.post("/optim_step")
async def optim_step(request: Request, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    async def step(body: OptimStepBody) -> str:
        return await service.training.optim_step(owner, body.model_id, body.seq_id, body.adam())

    return await _numbered(request, service, owner, OptimStepBody, OperationKind.OPTIM_STEP, step)


@router.post("/save_weights")
async def save_weights(request: Request, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    return await _save(request, service, owner, SaveWeightsBody, OperationKind.SAVE_WEIGHTS)


@router.post("/save_weights_for_sampler")
async def save_weights_for_sampler(request: Request, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    return await _save(request, service, owner, SaveForSamplerBody, OperationKind.SAVE_WEIGHTS_FOR_SAMPLER)


@router.post("/save_weights_external")
async def save_weights_external(request: Request, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    return await _save(request, service, owner, SaveExternalBody, OperationKind.SAVE_WEIGHTS_EXTERNAL)


@router.post("/load_weights")
async def load_weights(request: Request, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    """Load a checkpoint into the named model, or into a new model of the named session."""
    value = await read_object(request)
    if value.get("session_id") is None:
        load = partial(_load, request, service, owner)
        return await _accept(value, service, owner, LoadWeightsBody, OperationKind.LOAD_WEIGHTS, load)
    body = convert_object(value, LoadWeightsBody)
    if body.session_id is None or body.model_seq_id is None or body.model_id is not None or body.seq_id is not None:
        raise InvalidInput("load_weights takes session_id and model_seq_id, or model_id and seq_id")
    new = NewRun(session_id=body.session_id, model_seq_id=body.model_seq_id, user_metadata=body.user_metadata)
    op_id = await service.runs.create_from_checkpoint(
        owner,
        new,
        path=body.path,
        with_optimizer=body.optimizer,
        base_model=body.base_model,
        optimizer_family=optimizer_family(body.optimizer_config),
        lender=lender(request, body.weights_access_token),
    )
    return _future(op_id, new.model_id)


async def _save(
    request: Request,
    service: Service,
    owner: str,
    body_type: type[SaveBody],
    kind: OperationKind,
) -> dict[str, Any]:
    async def save(body: SaveBody) -> str:
        return await service.training.save(owner, body.model_id, body.seq_id, body.save())

    return await _numbered(request, service, owner, body_type, kind, save)


async def _load(request: Request, service: Service, owner: str, body: LoadWeightsBody) -> str:
    for name in ("base_model", "user_metadata", "optimizer_config"):
        if getattr(body, name) is not None:
            raise InvalidInput(f"{name} cannot be changed by a load into an existing model", field=name)
    assert body.model_id is not None  # both were read from the same body before
    assert body.seq_id is not None
    return await service.training.load(
        owner,
        body.model_id,
        body.seq_id,
        body.path,
        with_optimizer=body.optimizer,
        lender=lender(request, body.weights_access_token),
    )


async def _forward_backward(request: Request, service: Service, owner: str, *, forward_only: bool) -> dict[str, Any]:
    decode = decode_protobuf if is_protobuf(request) else partial(decode_json, forward_only=forward_only)
    body = await decoded(decode, await read_training_body(request))
    return _future(await service.training.forward_backward(owner, body), body.model_id)


async def _numbered(
    request: Request,
    service: Service,
    owner: str,
    body_type: type[BodyT],
    kind: OperationKind,
    submit: Callable[[BodyT], Awaitable[str]],
) -> dict[str, Any]:
    value = await read_object(request)
    return await _accept(value, service, owner, body_type, kind, submit)


async def _accept(
    value: dict[str, Any],
    service: Service,
    owner: str,
    body_type: type[BodyT],
    kind: OperationKind,
    submit: Callable[[BodyT], Awaitable[str]],
) -> dict[str, Any]:
    """A future for a numbered operation, even for an invalid one as long as its run and number can be read."""
    model_id, seq_id = value.get("model_id"), value.get("seq_id")
    if not isinstance(model_id, str) or not isinstance(seq_id, int) or isinstance(seq_id, bool) or seq_id < 1:
        raise InvalidInput(f"{kind} must name its model_id and a seq_id of at least 1", field="seq_id")
    try:
        op_id = await submit(convert_object(value, body_type))
    except (InvalidInput, Unsupported) as error:
        op_id = await service.training.refuse(owner, model_id, seq_id, kind, error)
    return _future(op_id, model_id)


def _tokenizer_id(base_model: BaseModel, service: Service) -> str:
    """Source from which the client loads the tokenizer: a folder on this machine, else the base model's name."""
    return str(base_model.directory) if is_loopback(service.config.host) else base_model.name


def _future(op_id: str, model_id: str) -> dict[str, Any]:
    return {"request_id": op_id, "model_id": model_id}
