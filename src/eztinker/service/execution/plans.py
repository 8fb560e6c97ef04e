"""Plans: the ways in which outcomes of operations become bytes for the client and rows to store with them.

`finish` of a plan stores these rows in the transaction that stores the outcome, and gives the result for the client.
It runs in the log's writer thread, where encoding megabytes keeps no request waiting. A plan is kept in the log beside
its operation, so that a server that finds the operation unfinished can finish it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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


class Done(Record):
    """The result of an operation, as the log keeps it and its client gets it."""

    kind: OperationKind
    media_type: str
    body: bytes


class PassPlan(Record, tag=True):
    """forward_backward, forward."""

    used: Usage
    num_loss_tokens: int = 0
    """Tokens over which the loss is a sum; 0 for a pass that trains nothing."""

    def finish(self, db: Connection, outcome: Outcome, now: datetime) -> Done:
        assert isinstance(outcome, ForwardBackwardDone)
        result, model_id = outcome.result, self.used.model_id
        body = training_codec.encode_result(result)
        usage.add(db, self.used)
        loss = result.metrics["loss:sum"]
        if self.num_loss_tokens and model_id is not None and math.isfinite(loss):
            models.set_last_loss(db, model_id, loss / self.num_loss_tokens)
        return Done(kind=OperationKind.FORWARD_BACKWARD, media_type=PROTOBUF, body=body)


class StepPlan(Record, tag=True):
    """optim_step."""

    model_id: str = ""
    """Empty in logs of older programs, which did not count steps."""

    def finish(self, db: Connection, outcome: Outcome, now: datetime) -> Done:
        assert isinstance(outcome, OptimStepDone)
        models.count_step(db, self.model_id)
        return _json(OperationKind.OPTIM_STEP, {"metrics": outcome.result.metrics, "type": OperationKind.OPTIM_STEP})


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
    """Author of the save, if not the owner."""

    def finish(self, db: Connection, outcome: Outcome, now: datetime) -> Done:
        assert isinstance(outcome, CheckpointDone)
        written = msgspec.structs.replace(
            self.checkpoint, size_bytes=outcome.result.size_bytes, step=outcome.result.step, created_at=now
        )
        if written.name is None:
            return self._finish_sampler(db, written)
        checkpoints.add(db, written, overwrite=self.overwrite)
        audit.add(db, checkpoint_event("create", written, by=self.saved_by or written.owner, now=now))
        usage.add(db, self.used)
        return _json(self.kind, {"path": tinker_path(written), "size_bytes": written.size_bytes, "type": self.kind})

    def _finish_sampler(self, db: Connection, written: Checkpoint) -> Done:
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
        checkpoints.add(db, written, overwrite=False)
        sessions.add_sampling_session(db, sampler)
        if self.inflight_seq_id is not None:
            checkpoints.remove_superseded(db, written.model_id, written.created_at)
        return _json(self.kind, {"sampling_session_id": sampler.sampling_session_id})


class LoadPlan(Record, tag=True):
    """load_weights into an existing run."""

    model_id: str
    path: str

    def finish(self, db: Connection, outcome: Outcome, now: datetime) -> Done:
        _set_steps(db, outcome, self.model_id)
        kind = OperationKind.LOAD_WEIGHTS
        return _json(kind, {"path": self.path, "model_id": self.model_id, "type": kind})


class BeginPlan(Record, tag=True):
    """A run's first operation: create_model, or load_weights for one that begins from a checkpoint."""

    kind: OperationKind
    model_id: str

    def finish(self, db: Connection, outcome: Outcome, now: datetime) -> Done:
        _set_steps(db, outcome, self.model_id)
        return _json(self.kind, {"model_id": self.model_id, "type": self.kind})


class UnloadPlan(Record, tag=True):
    """unload_model."""

    model_id: str

    def finish(self, db: Connection, outcome: Outcome, now: datetime) -> Done:
        snapshots.forget_model(db, self.model_id)
        kind = OperationKind.UNLOAD_MODEL
        return _json(kind, {"model_id": self.model_id, "type": kind})


class SamplePlan(Record):
    """Never in the log: a sample that a server left unfinished is asked for again."""

    sampler: SamplingSession
    model_id: str | None
    """The run whose weights are sampled from; None for a base model alone."""
    prompt: np.ndarray
    targets: TargetTensor | None
    is_recorded: bool = False
    """Whether training data may name its sequences as their source."""

    def finish(self, db: Connection, outcome: Outcome, now: datetime) -> Done:
        assert isinstance(outcome, SampleDone)
        body = sampling_codec.encode_result(outcome.result, self.targets)
        usage.add(db, *used_by_sample(self.sampler, self.model_id, len(self.prompt), outcome.result, now))
        if self.is_recorded:  # in the log before the client knows the sequences
            recorded_samples.add(db, *record_of(self.sampler, outcome.op_id, self.prompt, outcome.result, now))
        return Done(kind=OperationKind.SAMPLE, media_type=PROTOBUF, body=body)


Plan = PassPlan | StepPlan | SavePlan | LoadPlan | BeginPlan | UnloadPlan

_decoder = msgspec.msgpack.Decoder(Plan)


def encode_plan(plan: Plan) -> bytes:
    return msgspec.msgpack.encode(plan)


def decode_plan(raw: bytes) -> Plan:
    return _decoder.decode(raw)


def store_failure(db: Connection, plan: Plan | SamplePlan | None) -> None:
    """Rows to store together with the failure of an operation: a run that could not begin has failed."""
    if isinstance(plan, BeginPlan):
        models.set_status(db, [plan.model_id], ModelStatus.FAILED)
        snapshots.forget_model(db, plan.model_id)


def _json(kind: OperationKind, value: dict[str, Any]) -> Done:
    return Done(kind=kind, media_type=JSON, body=orjson.dumps(value))


def _set_steps(db: Connection, outcome: Outcome, model_id: str) -> None:
    """Keep how many steps are behind the weights that a model now has."""
    assert isinstance(outcome, Created)
    models.set_steps(db, model_id, outcome.state.step)
