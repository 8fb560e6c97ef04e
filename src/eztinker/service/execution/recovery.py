"""Recovery of what died with a process: the state of a run in a new engine, the work of an earlier server."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from eztinker.errors import CheckpointDamaged, CheckpointNotFound, EngineLost, EZTinkerError, NotFound
from eztinker.oplog import checkpoints, models, operations, payloads, snapshots
from eztinker.oplog.rows import Failure, Model, ModelStatus, OperationRow, OperationStatus, Snapshot
from eztinker.oplog.store import Store
from eztinker.protocol.frames import (
    Failed,
    ForwardBackward,
    LoadModel,
    Outcome,
    TrainingCommand,
    UnloadModel,
    decode_payload,
)
from eztinker.service.clock import Clock
from eztinker.service.execution.engine_process import MAX_DEATHS, EngineProcess
from eztinker.service.execution.operation import Operation
from eztinker.service.execution.plans import decode_plan
from eztinker.types import CheckpointKind, OperationKind

log = logging.getLogger(__name__)

_DAMAGE = (CheckpointDamaged.code, CheckpointNotFound.code)


class Recovery:
    """Brings a run's state back: the newest snapshot that is whole, and the settled operations behind it once more.

    An engine computes the same bits for the same operations, so the state is the one that was lost. Stored results are
    not touched.
    """

    def __init__(self, store: Store, engine: EngineProcess, snapshots_root: Path) -> None:
        self._store = store
        self._engine = engine
        self._root = snapshots_root
        self._deadly: dict[str, Operation] = {}
        """Operations of recovery over which an engine died; they are taken up again, so that their deaths add up."""

    async def restore(self, model_id: str, *, owner: str) -> int:
        """Put the run of `owner` into the engine as the log has it; gives the epoch of that engine.

        Raises:
            EngineDied: the engine died meanwhile; it is worth another try.
            EngineLost: the run cannot be brought back now, or never can be and has ended.
        """
        epoch = await self._engine.available()
        clear = UnloadModel(op_id=f"clear-{model_id}", model_id=model_id)
        await self._run([_again(clear, OperationKind.UNLOAD_MODEL, owner)], epoch)
        kept, replay = await self._store.read(lambda db: _kept(db, model_id))
        loaded = await self._load_newest(model_id, kept, owner, epoch)
        after = -1 if loaded is None else loaded.seq_id
        rows = [row for row in replay.rows if row.seq_id is not None and row.seq_id > after]
        if kept and loaded is None and (not rows or rows[0].seq_id != 0):
            raise await self.end_run(model_id, "its snapshots on the server's disk are damaged")
        if any(row.payload not in replay.contents for row in rows):
            raise await self.end_run(model_id, "operations that it was made by are damaged in the server's log")
        answers = await self._run([replay.operation(row) for row in rows], epoch)
        for row, answer in zip(rows, answers, strict=True):
            if isinstance(answer, Failed) != (row.status is OperationStatus.FAILED):
                reason = answer.message if isinstance(answer, Failed) else "a refused operation was accepted"
                raise _not_now(model_id, reason)
        if rows or loaded:
            log.info("Run %s is back, %d operations replayed", model_id, len(rows), extra={"event": "run_recovered"})
        return epoch

    async def end_run(self, model_id: str, reason: str) -> EngineLost:
        """Give a run up; the error says from where a new one can go on."""
        return await self._store.write(lambda db: end_run(db, model_id, reason))

    async def _load_newest(self, model_id: str, kept: list[Snapshot], owner: str, epoch: int) -> Snapshot | None:
        for snapshot in kept:
            command = LoadModel(
                op_id=f"restore-{snapshot.snapshot_id}",
                model_id=model_id,
                directory=str(self._root / snapshot.snapshot_id),
                with_optimizer=True,
            )
            (answer,) = await self._run([_again(command, OperationKind.LOAD_WEIGHTS, owner)], epoch)
            if not isinstance(answer, Failed):
                return snapshot
            if answer.code not in _DAMAGE:
                raise _not_now(model_id, answer.message)
            log.error("A snapshot is of no use: %s", answer.message, extra={"event": "snapshot_damaged"})
        return None

    async def _run(self, operations_: list[Operation], epoch: int) -> list[Outcome]:
        """Run operations in the engine of this epoch, and return its answers.

        Raises:
            EngineDied: not all were answered.
            EngineLost: one of them has cost too many engines, and with it the run.
        """
        tried = [self._deadly.get(each.op_id, each) for each in operations_]
        answers = await asyncio.gather(
            *(self._engine.train(each, epoch=epoch) for each in tried), return_exceptions=True
        )
        for operation in tried:
            if operation.num_deaths >= MAX_DEATHS:
                self._deadly = {op_id: each for op_id, each in self._deadly.items() if each.lane != operation.lane}
                reason = f"the engine died {MAX_DEATHS} times while it was brought back"
                raise await self.end_run(operation.lane, reason)
            if operation.num_deaths:
                self._deadly[operation.op_id] = operation
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return [answer for answer in answers if not isinstance(answer, BaseException)]


@dataclass(frozen=True, slots=True)
class _Replay:
    """Settled operations that changed the state, with what they do."""

    rows: list[OperationRow]
    contents: dict[str, bytes]
    """Payloads by digest; a missing one was damaged on the disk."""

    def operation(self, row: OperationRow) -> Operation:
        assert row.payload is not None
        command = decode_payload(self.contents[row.payload], op_id=row.op_id, model_id=row.lane)
        return _again(command, row.kind, row.owner)


@dataclass(frozen=True, slots=True)
class UnfinishedLane:
    """Operations of one run that an earlier server accepted and did not finish."""

    model_id: str
    last_run: int
    """The highest number that has been run."""
    operations: list[Operation]
    """Operations in their order; those the server began on its own, which have no number, come last."""


async def recover_log(store: Store, clock: Clock) -> list[UnfinishedLane]:
    """Read the lane of every run that an earlier server left active or with work; its samples are lost."""
    now = clock.now()

    def recover(db: Connection) -> list[UnfinishedLane]:
        unfinished: dict[str, list[Operation]] = {model.model_id: [] for model in models.active(db)}
        for row in operations.pending(db):
            if row.kind is OperationKind.SAMPLE:
                operations.mark_lost(db, row.op_id, now)
            elif (operation := _unfinished(db, row)) is not None:
                unfinished.setdefault(row.lane, []).append(operation)
            else:
                failure = Failure.of(end_run(db, row.lane, "the log no longer has its operations"))
                operations.fail(db, row.op_id, failure, now=now)
        payloads.drop_unused(db)
        return [
            UnfinishedLane(model_id, operations.last_run(db, model_id), sorted(waiting, key=_place))
            for model_id, waiting in unfinished.items()
        ]

    return await store.write(recover)


def end_run(db: Connection, model_id: str, reason: str) -> EngineLost:
    """Mark the run as lost; the error names its newest checkpoint."""
    models.set_status(db, [model_id], ModelStatus.LOST)
    snapshots.forget_model(db, model_id)
    return _lost_error(db, model_id, reason)


def ended_error(db: Connection, model: Model) -> EZTinkerError:
    """The error that tells why a run that has ended takes no more operations."""
    match model.status:
        case ModelStatus.UNLOADED:
            return NotFound(f"The training run {model.model_id} was unloaded; create a new one from a checkpoint")
        case ModelStatus.ARCHIVE:
            return NotFound(
                f"{model.model_id} holds a copy and is not trained; create a training run from that checkpoint"
            )
        case ModelStatus.FAILED:
            return NotFound(f"The training run {model.model_id} could not be created; its first operation says why")
        case _:
            return _lost_error(db, model.model_id, "its state could not be brought back")


def advice_to_go_on(db: Connection, model_id: str) -> str | None:
    """Advice how to go on in place of a run that has ended; None if it has no checkpoint."""
    saved = [row for row in checkpoints.of_models(db, [model_id]) if row.kind is CheckpointKind.TRAINING]
    if not saved:
        return None
    path = f"tinker://{model_id}/{CheckpointKind.TRAINING}/{saved[0].name}"
    return f"Go on from its newest checkpoint with create_training_client_from_state_with_optimizer('{path}')"


def _lost_error(db: Connection, model_id: str, reason: str) -> EngineLost:
    advice = advice_to_go_on(db, model_id) or (
        "It has no saved checkpoint; create a new training client and start again"
    )
    return EngineLost(f"The training run {model_id} is lost: {reason}. {advice}")


def _not_now(model_id: str, reason: str) -> EngineLost:
    """The error for a run whose obstacle may be removed: short memory, a base model that is not served any more."""
    return EngineLost(f"The training run {model_id} cannot be brought back at present: {reason}")


def _kept(db: Connection, model_id: str) -> tuple[list[Snapshot], _Replay]:
    kept = snapshots.of_model(db, model_id)
    rows = operations.to_replay(db, model_id)
    digests = [row.payload for row in rows if row.payload is not None]
    return kept, _Replay(rows, payloads.contents(db, digests))


def _unfinished(db: Connection, row: OperationRow) -> Operation | None:
    """The operation as it was accepted; None if the log has lost what it was to do, or it was damaged there."""
    if row.payload is None or row.plan is None or not row.is_plan_whole:
        return None
    content = payloads.contents(db, [row.payload]).get(row.payload)
    if content is None:
        return None
    work = decode_payload(content, op_id=row.op_id, model_id=row.lane)
    return Operation(
        op_id=row.op_id,
        owner=row.owner,
        lane=row.lane,
        seq_id=row.seq_id,
        kind=row.kind,
        work=work,
        plan=decode_plan(row.plan),
        is_chunked=isinstance(work, ForwardBackward),
    )


def _again(command: TrainingCommand, kind: OperationKind, owner: str) -> Operation:
    """An operation that brings a run back: it is in no log, and nobody waits for its outcome but recovery."""
    return Operation(op_id=command.op_id, owner=owner, lane=command.model_id, seq_id=None, kind=kind, work=command)


def _place(operation: Operation) -> float:
    return float("inf") if operation.seq_id is None else operation.seq_id
