"""The JSON requests of the Tinker API, except samples and training batches, which protocol decodes.

A field that is not listed here is refused by name, unless it carries an off value (see protocol.json_bodies). Fields
that ask for what we do not have are listed, so that the refusal can say so.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from eztinker.errors import InvalidInput, Unsupported
from eztinker.protocol.json_bodies import MAX_SHOWN_CHARS, Body
from eztinker.service.training.training import SaveRequest
from eztinker.types import AdamParams, CheckpointKind, LoraSpec

Id = Annotated[str, msgspec.Meta(max_length=256)]
"""Id of an object of this server."""
Name = Annotated[str, msgspec.Meta(max_length=1024)]
"""Name of a base model or a checkpoint, which may be a path."""
MAX_TAGS = 64
MAX_FETCHED = 1 << 16
"""Most results that one request may list as retrieved."""


class CreateSessionBody(Body):
    tags: Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_TAGS)] = ()
    user_metadata: dict[str, Any] | None = None
    sdk_version: str = ""
    project_id: str | None = None
    display_name: str | None = None
    type: str | None = None


class HeartbeatBody(Body):
    session_id: Id
    type: str | None = None


class FinishReason(Body):
    type: Literal["success", "errored", "interrupted"]


class FinishSessionBody(Body):
    reason: FinishReason
    detail: str | None = None


class LoraConfigBody(Body):
    rank: int = 32
    seed: int | None = None
    train_unembed: bool = True
    train_mlp: bool = True
    train_attn: bool = True


class CreateModelBody(Body):
    session_id: Id
    model_seq_id: int
    base_model: Name
    user_metadata: dict[str, Any] | None = None
    lora_config: LoraConfigBody = LoraConfigBody()
    optimizer_config: dict[str, Any] | None = None
    type: str | None = None


class ModelBody(Body):
    """Body of get_info and unload_model."""

    model_id: Id
    type: str | None = None


class AdamBody(Body):
    learning_rate: float = AdamParams().learning_rate
    beta1: float = AdamParams().beta1
    beta2: float = AdamParams().beta2
    eps: float = AdamParams().eps
    weight_decay: float = AdamParams().weight_decay
    grad_clip_norm: float = AdamParams().grad_clip_norm


class OptimStepBody(Body):
    model_id: Id
    seq_id: int
    adam_params: AdamBody | None = None
    optimizer_params: dict[str, Any] | None = None
    """Parameters of any other optimizer family than Adam."""
    type: str | None = None

    def adam(self) -> AdamParams:
        """Parameters of the Adam step that was asked for.

        Raises:
            Unsupported: the parameters are another optimizer's.
            InvalidInput: there are no parameters.
        """
        if self.optimizer_params is not None:
            raise Unsupported(
                f"Optimizer {optimizer_family(self.optimizer_params)!r} is not supported; send adam_params"
            )
        if self.adam_params is None:
            raise InvalidInput("adam_params are missing", field="adam_params")
        adam = self.adam_params
        return AdamParams(
            learning_rate=adam.learning_rate,
            beta1=adam.beta1,
            beta2=adam.beta2,
            eps=adam.eps,
            weight_decay=adam.weight_decay,
            grad_clip_norm=max(adam.grad_clip_norm, 0.0),
        )


class SaveWeightsBody(Body):
    model_id: Id
    seq_id: int
    path: Name
    ttl_seconds: int | None = None
    overwrite: bool = False
    user_metadata: dict[str, str] | None = None
    type: str | None = None

    def save(self) -> SaveRequest:
        return SaveRequest(
            kind=CheckpointKind.TRAINING,
            name=self.path,
            ttl_seconds=self.ttl_seconds,
            overwrite=self.overwrite,
            user_metadata=self.user_metadata,
        )


class SaveForSamplerBody(Body):
    model_id: Id
    seq_id: int
    path: Name | None = None
    sampling_session_seq_id: int | None = None
    kind: Literal["snapshot", "inflight"] = "snapshot"
    ttl_seconds: int | None = None
    user_metadata: dict[str, str] | None = None
    type: str | None = None

    def save(self) -> SaveRequest:
        return SaveRequest(
            kind=CheckpointKind.SAMPLER,
            name=self.path,
            ttl_seconds=self.ttl_seconds,
            is_inflight=self.kind == "inflight",
            user_metadata=self.user_metadata,
        )


class SaveExternalBody(Body):
    model_id: Id
    seq_id: int
    path: Name
    ttl_seconds: int | None = None
    age_encryption_recipients: tuple[str, ...] | None = None
    type: str | None = None

    def save(self) -> SaveRequest:
        return SaveRequest(
            kind=CheckpointKind.EXTERNAL,
            name=self.path,
            ttl_seconds=self.ttl_seconds,
            age_recipients=self.age_encryption_recipients or (),
        )


SaveBody = SaveWeightsBody | SaveForSamplerBody | SaveExternalBody
"""Any request for a checkpoint; `save()` translates it."""


class LoadWeightsBody(Body, kw_only=True):
    """Body of load_weights: into an existing model (model_id, seq_id) or a new one (session_id, model_seq_id)."""

    model_id: Id | None = None
    seq_id: int | None = None
    session_id: Id | None = None
    model_seq_id: int | None = None
    path: Name
    optimizer: bool
    base_model: Name | None = None
    user_metadata: dict[str, Any] | None = None
    optimizer_config: dict[str, Any] | None = None
    weights_access_token: str | None = None
    type: str | None = None


class CreateSamplingSessionBody(Body):
    session_id: Id
    sampling_session_seq_id: int
    base_model: Name | None = None
    model_path: Name | None = None
    type: str | None = None


class JoinSamplingSessionBody(Body):
    sampling_session_id: Id
    type: str | None = None


class SamplingClientBody(Body):
    """One sampling client: the original, or a copy of it in another process."""

    sampling_session_id: Id
    cloned_sampler_id: int = 0
    type: Literal["sampling_session"] = "sampling_session"


class RetrieveFuturesBody(Body):
    target: SamplingClientBody
    prev_cursor: int = 0
    timeout: float | None = None
    """Seconds to hold the poll; None leaves it to the server."""
    retrieved_request_ids: Annotated[tuple[Id, ...], msgspec.Meta(max_length=MAX_FETCHED)] = ()


class CancelFutureBody(Body):
    request_id: Id


class RetrieveFutureBody(Body):
    request_id: Id
    allow_metadata_only: bool = False
    """Whether the client accepts the size of a large result before the result itself."""


class LabelRunBody(Body):
    name: str | msgspec.UnsetType | None = msgspec.UNSET
    note: str | msgspec.UnsetType | None = msgspec.UNSET

    def changes(self) -> dict[str, str | None]:
        """Fields to set, with their new values; None clears one."""
        values = {"name": self.name, "note": self.note}
        return {field: value for field, value in values.items() if not isinstance(value, msgspec.UnsetType)}


class TtlBody(Body):
    ttl_seconds: int | None


class WeightsInfoBody(Body):
    tinker_path: Name


class CopyWeightsBody(Body):
    source_path: Name
    destination_project_id: Id | None = None
    session_id: Id | None = None
    model_seq_id: int | None = None
    ttl_seconds: int | None = None
    weights_access_token: str | None = None


class UploadStartBody(Body):
    base_model: Name
    lora_config: LoraConfigBody = LoraConfigBody()
    destination_project_id: Id | None = None
    type: str | None = None

    def lora(self) -> LoraSpec:
        """Shape of the adapter that is announced.

        Raises:
            InvalidInput: the config has a seed, from which only a fresh adapter is drawn.
        """
        config = self.lora_config
        if config.seed is not None:
            raise InvalidInput("lora_config.seed draws a fresh adapter; leave it out for one that is uploaded")
        return LoraSpec(
            rank=config.rank,
            seed=0,
            train_attn=config.train_attn,
            train_mlp=config.train_mlp,
            train_unembed=config.train_unembed,
        )


class UploadFinishBody(Body):
    upload_id: Id
    type: str | None = None


def optimizer_family(config: dict[str, Any] | None) -> str | None:
    """Optimizer family that an optimizer_config names; None for the default."""
    return None if config is None else str(config.get("type"))[:MAX_SHOWN_CHARS]
