"""The operations of a training run that are numbered by `seq_id`.

What is wrong with such a request is never told by an HTTP status: the official client would stop sending for good. It
gets a promise, which fails with the reason, and its number counts as used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from sqlalchemy import Connection

from eztinker.checkpoints.encryption import parse_recipients
from eztinker.errors import CheckpointDamaged, EZTinkerError, InvalidInput, UserError
from eztinker.oplog import audit, checkpoints, models, sessions, usage
from eztinker.oplog.rows import Checkpoint, Model, SamplingSession, UsageKind
from eztinker.protocol.frames import (
    AnyEvent,
    CheckpointDone,
    ForwardBackward,
    ForwardBackwardDone,
    LoadModel,
    OptimStep,
    OptimStepDone,
    SaveCheckpoint,
    TrainingCommand,
)
from eztinker.protocol.training_codec import ForwardBackwardRequest, encode_result
from eztinker.service.checkpoints import Checkpoints, checkpoint_event, tinker_path
from eztinker.service.clock import Clock
from eztinker.service.losses import check_batch
from eztinker.service.operations import PROTOBUF, Finished, NewOperation, new_op_id
from eztinker.service.run_lanes import RunLanes
from eztinker.service.sampling import new_sampling_session
from eztinker.service.training_runs import TrainingRuns, ended_error
from eztinker.service.usage import used_by_run
from eztinker.service.validation import check_adam, check_metadata, check_name, check_seq_id, expiry
from eztinker.types import AdamParams, CheckpointKind, Record

FORWARD_BACKWARD = "forward_backward"


class SaveRequest(Record):
    """A checkpoint to write."""

    kind: CheckpointKind
    name: str | None
    """None for a snapshot behind one sampling client."""
    ttl_seconds: int | None = None
    overwrite: bool = False
    is_inflight: bool = False
    """Of an unnamed one: it also moves the sampling clients of earlier inflight saves forward."""
    user_metadata: dict[str, str] | None = None
    age_recipients: tuple[str, ...] = ()
    """Public keys that an export is encrypted for."""


class Training:
    def __init__(self, runs: TrainingRuns, lanes: RunLanes, saved: Checkpoints, clock: Clock) -> None:
        self._runs = runs
        self._lanes = lanes
        self._saved = saved
        self._clock = clock

    async def forward_backward(self, owner: str, request: ForwardBackwardRequest) -> str:
        """Accumulate the gradients of a batch, or only compute its loss; the promise ends in ForwardBackwardOutput."""
        model = await self._runs.require_active(owner, request.model_id)
        op_id = new_op_id()
        work = await asyncio.to_thread(self._forward_backward_command, op_id, model, request)
        num_tokens = sum(len(datum.tokens) for datum in work.data) if isinstance(work, ForwardBackward) else 0

        def finish(event: AnyEvent) -> Finished:
            assert isinstance(event, ForwardBackwardDone)
            used = used_by_run(model, UsageKind.TRAINING, num_tokens, self._clock.now())
            return Finished(body=encode_result(event.result), media_type=PROTOBUF, also=lambda db: usage.add(db, used))

        return await self._submit(model, op_id, request.seq_id, FORWARD_BACKWARD, work, finish, is_chunked=True)

    async def optim_step(self, owner: str, model_id: str, seq_id: int, adam: AdamParams | UserError) -> str:
        """Make one AdamW step with the accumulated gradients; the promise ends in metrics."""
        model = await self._runs.require_active(owner, model_id)
        op_id = new_op_id()
        work: OptimStep | UserError
        try:
            work = OptimStep(op_id=op_id, model_id=model_id, adam=check_adam(_granted(adam)))
        except UserError as error:
            work = error
        return await self._submit(model, op_id, seq_id, "optim_step", work, _finish_optim_step)

    async def save(self, owner: str, model_id: str, seq_id: int, save_as: SaveRequest | UserError) -> str:
        """Write a checkpoint; the promise ends in its path or, for an unnamed one, in a sampling session."""
        model = await self._runs.require_active(owner, model_id)
        op_id = new_op_id()
        kind = "save_weights"
        try:
            request = _granted(save_as)
            kind = _SAVE_KINDS[request.kind]
            checkpoint = await self._planned(model, request)
        except UserError as error:
            return await self._submit(model, op_id, seq_id, kind, error, _never_finishes)
        work = SaveCheckpoint(
            op_id=op_id,
            model_id=model_id,
            kind=checkpoint.kind,
            directory=str(self._saved.directory(checkpoint.checkpoint_id)),
            tinker_path=tinker_path(checkpoint),
            age_recipients=request.age_recipients,
        )

        def finish(event: AnyEvent) -> Finished:
            assert isinstance(event, CheckpointDone)
            written = _written(checkpoint, event, self._clock)
            if written.name is None:
                return _finish_unnamed(model, written, inflight_seq_id=seq_id if request.is_inflight else None)
            return _finish_checkpoint(model, kind, written, overwrite=request.overwrite)

        return await self._submit(model, op_id, seq_id, kind, work, finish)

    async def load(
        self, owner: str, model_id: str, seq_id: int, path: str, *, with_optimizer: bool, lender: str | None
    ) -> str:
        """Put a checkpoint into an existing run; the promise ends in its path."""
        model = await self._runs.require_active(owner, model_id)
        op_id = new_op_id()
        work: LoadModel | EZTinkerError
        try:
            checkpoint, _ = await self._saved.loadable(owner, path, with_optimizer=with_optimizer, lender=lender)
            directory = str(self._saved.directory(checkpoint.checkpoint_id))
            work = LoadModel(op_id=op_id, model_id=model_id, directory=directory, with_optimizer=with_optimizer)
        except (UserError, CheckpointDamaged) as error:
            work = error
        answer = {"path": path, "model_id": model_id, "type": "load_weights"}
        return await self._submit(model, op_id, seq_id, "load_weights", work, lambda _: Finished.json(answer))

    async def refuse(self, owner: str, model_id: str, seq_id: int, kind: str, error: UserError) -> str:
        """A promise that fails with `error`, for a request that could be told from others but not be understood."""
        model = await self._runs.require_active(owner, model_id)
        return await self._submit(model, new_op_id(), seq_id, kind, error, _never_finishes)

    def _forward_backward_command(
        self, op_id: str, model: Model, request: ForwardBackwardRequest
    ) -> ForwardBackward | UserError:
        try:
            batch = _granted(request.batch)
            check_batch(batch, self._runs.base_model(model))
        except UserError as error:
            return error
        return ForwardBackward(
            op_id=op_id,
            model_id=model.model_id,
            data=batch.data,
            loss_fn=batch.loss_fn,
            loss_fn_config=batch.loss_fn_config,
            forward_only=batch.forward_only,
        )

    async def _planned(self, model: Model, request: SaveRequest) -> Checkpoint:
        """The row of a checkpoint that is about to be written.

        Raises:
            InvalidInput: its name, lifetime, metadata or recipients cannot be accepted.
            AlreadyExists: its name is taken.
        """
        check_metadata(request.user_metadata)
        if request.is_inflight and request.name is not None:
            raise InvalidInput("A save of kind 'inflight' has no path; leave one of the two out", field="kind")
        parse_recipients(request.age_recipients)
        now = self._clock.now()
        expires_at = expiry(request.ttl_seconds, now)
        if request.name is not None:
            check_name(request.name)
            if not request.overwrite and await self._saved.is_taken(model.model_id, request.kind, request.name):
                raise checkpoints.name_taken(model.model_id, request.kind, request.name)
        return Checkpoint(
            checkpoint_id=self._saved.new_id(),
            owner=model.owner,
            model_id=model.model_id,
            kind=request.kind,
            name=request.name,
            size_bytes=0,
            step=0,
            user_metadata=request.user_metadata,
            created_at=now,
            expires_at=expires_at,
        )

    async def _submit(
        self,
        model: Model,
        op_id: str,
        seq_id: int,
        kind: str,
        work: TrainingCommand | EZTinkerError,
        finish: Callable[[AnyEvent], Finished],
        *,
        is_chunked: bool = False,
    ) -> str:
        now = self._clock.now()
        new = NewOperation(
            op_id=op_id,
            owner=model.owner,
            lane=model.model_id,
            seq_id=check_seq_id(seq_id),
            kind=kind,
            work=ended_error(model) or work,
            finish=finish,
            also=lambda db: models.touch(db, model.model_id, now),
        )
        return await self._lanes.submit(new, is_chunked=is_chunked)


_SAVE_KINDS = {
    CheckpointKind.TRAINING: "save_weights",
    CheckpointKind.SAMPLER: "save_weights_for_sampler",
    CheckpointKind.EXTERNAL: "save_weights_external",
}


def _granted(value: Any) -> Any:
    """`value`, unless decoding it has failed; then that error."""
    if isinstance(value, UserError):
        raise value
    return value


def _finish_optim_step(event: AnyEvent) -> Finished:
    assert isinstance(event, OptimStepDone)
    return Finished.json({"metrics": event.result.metrics, "type": "optim_step"})


def _never_finishes(event: AnyEvent) -> Finished:
    raise AssertionError(f"A refused operation came back from the engine: {type(event).__name__}")


def _written(checkpoint: Checkpoint, event: CheckpointDone, clock: Clock) -> Checkpoint:
    """The planned row with what the engine found out, dated at the end of the save."""
    result = event.result
    return msgspec.structs.replace(checkpoint, size_bytes=result.size_bytes, step=result.step, created_at=clock.now())


def _finish_checkpoint(model: Model, kind: str, checkpoint: Checkpoint, *, overwrite: bool) -> Finished:
    answer = {"path": tinker_path(checkpoint), "size_bytes": checkpoint.size_bytes, "type": kind}
    now = checkpoint.created_at

    def store(db: Connection) -> None:
        checkpoints.add(db, checkpoint, overwrite=overwrite)
        audit.add(db, checkpoint_event("create", checkpoint, by=model.owner, now=now))
        usage.add(db, used_by_run(model, UsageKind.CHECKPOINT, 1, now))

    return Finished.json(answer, also=store)


def _finish_unnamed(model: Model, checkpoint: Checkpoint, *, inflight_seq_id: int | None) -> Finished:
    sampler: SamplingSession = new_sampling_session(
        owner=model.owner,
        session_id=model.session_id,
        seq_id=None,
        base_model=model.base_model,
        checkpoint_id=checkpoint.checkpoint_id,
        inflight_model_id=None if inflight_seq_id is None else model.model_id,
        save_seq_id=inflight_seq_id,
        now=checkpoint.created_at,
    )

    def store(db: Connection) -> None:
        checkpoints.add(db, checkpoint, overwrite=False)
        sessions.add_sampling_session(db, sampler)
        if inflight_seq_id is not None:
            checkpoints.remove_superseded(db, model.model_id, checkpoint.created_at)

    return Finished.json({"sampling_session_id": sampler.sampling_session_id}, also=store)
