"""What the outcome of an operation is made into: the bytes for the client, and rows to store with them.

A plan is kept in the log beside its operation, so that a server that finds the operation unfinished can finish it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
import orjson
from sqlalchemy import Connection

from eztinker.oplog import audit, checkpoints, models, recorded_samples, sessions, snapshots, usage
from eztinker.oplog.rows import Checkpoint, ModelStatus, SamplingSession, Usage
from eztinker.protocol import sampling_codec, training_codec
from eztinker.protocol.frames import (
    CheckpointDone,
    Created,
    ForwardBackwardDone,
    OptimStepDone,
    Outcome,
    SampleDone,
)
from eztinker.protocol.prompt_targets import TargetTensor
from eztinker.service.accounts.usage import used_by_sample
from eztinker.service.checkpoints.checkpoints import checkpoint_event, tinker_path
from eztinker.service.sessions.recorded_samples import record_of
from eztinker.service.sessions.sampling_sessions import new_sampling_session
from eztinker.types import OperationKind, Record

JSON = "application/json"
PROTOBUF = "application/x-protobuf"

Change = Callable[[Connection], Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """What an operation came to: the bytes for the client, and rows to store in the same transaction."""

    body: bytes
    media_type: str = JSON
    also: Change | None = None

    @classmethod
    def json(cls, value: dict[str, Any], *, also: Change | None = None) -> Finished:
        return cls(body=orjson.dumps(value), also=also)


class PassPlan(Record, tag=True):
    """forward_backward, forward."""

    used: Usage
    num_loss_tokens: int = 0
    """Tokens over which the loss is a sum; 0 for a pass that trains nothing."""

    def finish(self, outcome: Outcome, now: datetime) -> Finished:
        assert isinstance(outcome, ForwardBackwardDone)
        result, model_id = outcome.result, self.used.model_id

        def store(db: Connection) -> None:
            usage.add(db, self.used)
            loss = result.metrics["loss:sum"]
            if self.num_loss_tokens and model_id is not None and math.isfinite(loss):
                models.set_last_loss(db, model_id, loss / self.num_loss_tokens)

        return Finished(body=training_codec.encode_result(result), media_type=PROTOBUF, also=store)


class StepPlan(Record, tag=True):
    """optim_step."""

    model_id: str = ""
    """Empty in logs of older programs, which did not count steps."""

    def finish(self, outcome: Outcome, now: datetime) -> Finished:
        assert isinstance(outcome, OptimStepDone)
        answer = {"metrics": outcome.result.metrics, "type": OperationKind.OPTIM_STEP}
        return Finished.json(answer, also=lambda db: models.count_step(db, self.model_id))


class SavePlan(Record, tag=True):
    """A checkpoint to be listed or, for an unnamed one, a sampling session over it."""

    kind: OperationKind
    checkpoint: Checkpoint
    overwrite: bool
    session_id: str
    base_model: str
    inflight_seq_id: int | None
    """The save's own number, if the session is to move on with later saves of this kind."""
    used: Usage
    saved_by: str | None = None
    """Who saves it, if not its owner."""

    def finish(self, outcome: Outcome, now: datetime) -> Finished:
        assert isinstance(outcome, CheckpointDone)
        written = msgspec.structs.replace(
            self.checkpoint, size_bytes=outcome.result.size_bytes, step=outcome.result.step, created_at=now
        )
        if written.name is None:
            return self._finish_sampler(written)
        answer = {"path": tinker_path(written), "size_bytes": written.size_bytes, "type": self.kind}

        def store(db: Connection) -> None:
            checkpoints.add(db, written, overwrite=self.overwrite)
            audit.add(db, checkpoint_event("create", written, by=self.saved_by or written.owner, now=now))
            usage.add(db, self.used)

        return Finished.json(answer, also=store)

    def _finish_sampler(self, written: Checkpoint) -> Finished:
        sampler = new_sampling_session(
            owner=written.owner,
            session_id=self.session_id,
            seq_id=None,
            base_model=self.base_model,
            checkpoint_id=written.checkpoint_id,
            inflight_model_id=None if self.inflight_seq_id is None else written.model_id,
            save_seq_id=self.inflight_seq_id,
            now=written.created_at,
        )

        def store(db: Connection) -> None:
            checkpoints.add(db, written, overwrite=False)
            sessions.add_sampling_session(db, sampler)
            if self.inflight_seq_id is not None:
                checkpoints.remove_superseded(db, written.model_id, written.created_at)

        return Finished.json({"sampling_session_id": sampler.sampling_session_id}, also=store)


class LoadPlan(Record, tag=True):
    """load_weights into an existing run."""

    model_id: str
    path: str

    def finish(self, outcome: Outcome, now: datetime) -> Finished:
        answer = {"path": self.path, "model_id": self.model_id, "type": OperationKind.LOAD_WEIGHTS}
        return Finished.json(answer, also=_steps_of(outcome, self.model_id))


class BeginPlan(Record, tag=True):
    """A run's first operation: create_model, or load_weights for one that begins from a checkpoint."""

    kind: OperationKind
    model_id: str

    def finish(self, outcome: Outcome, now: datetime) -> Finished:
        answer = {"model_id": self.model_id, "type": self.kind}
        return Finished.json(answer, also=_steps_of(outcome, self.model_id))


class UnloadPlan(Record, tag=True):
    model_id: str

    def finish(self, outcome: Outcome, now: datetime) -> Finished:
        answer = {"model_id": self.model_id, "type": OperationKind.UNLOAD_MODEL}
        return Finished.json(answer, also=lambda db: snapshots.forget_model(db, self.model_id))


class SamplePlan(Record):
    """Never in the log: a sample that a server left unfinished is asked for again."""

    sampler: SamplingSession
    model_id: str | None
    """The run whose weights are sampled from; None for a base model alone."""
    prompt: np.ndarray
    targets: TargetTensor | None
    is_recorded: bool = False
    """Whether training data may name its sequences as their source."""

    def finish(self, outcome: Outcome, now: datetime) -> Finished:
        assert isinstance(outcome, SampleDone)
        used = used_by_sample(self.sampler, self.model_id, len(self.prompt), outcome.result, now)
        body = sampling_codec.encode_result(outcome.result, self.targets)

        def store(db: Connection) -> None:
            usage.add(db, *used)
            if self.is_recorded:  # in the log before the client knows the sequences
                recorded_samples.add(db, *record_of(self.sampler, outcome.op_id, self.prompt, outcome.result, now))

        return Finished(body=body, media_type=PROTOBUF, also=store)


Plan = PassPlan | StepPlan | SavePlan | LoadPlan | BeginPlan | UnloadPlan

_decoder = msgspec.msgpack.Decoder(Plan)


def encode_plan(plan: Plan) -> bytes:
    return msgspec.msgpack.encode(plan)


def decode_plan(raw: bytes) -> Plan:
    return _decoder.decode(raw)


def _steps_of(outcome: Outcome, model_id: str) -> Change:
    """The change that keeps how many steps are behind the weights a model now has."""
    assert isinstance(outcome, Created)
    return lambda db: models.set_steps(db, model_id, outcome.state.step)


def store_failure(db: Connection, plan: Plan | SamplePlan) -> None:
    """Rows to store together with the failure of an operation: a run that could not begin has failed."""
    if isinstance(plan, BeginPlan):
        models.set_status(db, [plan.model_id], ModelStatus.FAILED)
        snapshots.forget_model(db, plan.model_id)
