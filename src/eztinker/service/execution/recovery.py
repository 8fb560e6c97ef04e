"""Bringing back what died with a process: the state of a run in a new engine, the work of an earlier server."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from eztinker.errors import CheckpointDamaged, CheckpointNotFound, EngineLost, EZTinkerError, NotFound
from eztinker.oplog import checkpoints, models, operations, payloads, snapshots
from eztinker.oplog.rows import Failure, Model, ModelStatus, Operation, OperationStatus, Snapshot
from eztinker.oplog.store import Store
from eztinker.protocol.frames import Failed, LoadModel, TrainingCommand, UnloadModel, decode_payload
from eztinker.service.clock import Clock
from eztinker.service.execution.engine_process import MAX_DEATHS, Answer, EngineDied, EngineProcess
from eztinker.service.execution.new_operation import NewOperation
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
        self._deaths: Counter[str] = Counter()
        """Engines that died over a command of recovery."""

    async def restore(self, model_id: str, *, owner: str) -> int:
        """Put the run of `owner` into the engine as the log has it; gives the epoch of that engine.

        Raises:
            EngineDied: the engine died meanwhile; it is worth another try.
            EngineLost: the run cannot be brought back now, or never can be and has ended.
        """
        epoch = await self._engine.available()
        await self._run([UnloadModel(op_id=f"clear-{model_id}", model_id=model_id)], owner, epoch)
        kept, replay = await self._store.read(lambda db: _kept(db, model_id))
        loaded = await self._load_newest(model_id, kept, owner, epoch)
        after = -1 if loaded is None else loaded.seq_id
        rows = [row for row in replay.rows if row.seq_id is not None and row.seq_id > after]
        if kept and loaded is None and (not rows or rows[0].seq_id != 0):
            raise await self.end_run(model_id, "its snapshots on the server's disk are damaged")
        if any(row.payload not in replay.contents for row in rows):
            raise await self.end_run(model_id, "operations that it was made by are damaged in the server's log")
        answers = await self._run([replay.command(row) for row in rows], owner, epoch)
        for row, answer in zip(rows, answers, strict=True):
            if isinstance(answer.event, Failed) != (row.status is OperationStatus.FAILED):
                reason = (
                    answer.event.message if isinstance(answer.event, Failed) else "a refused operation was accepted"
                )
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
            (answer,) = await self._run([command], owner, epoch)
            if not isinstance(answer.event, Failed):
                return snapshot
            if answer.event.code not in _DAMAGE:
                raise _not_now(model_id, answer.event.message)
            log.error("A snapshot is of no use: %s", answer.event.message, extra={"event": "snapshot_damaged"})
        return None

    async def _run(self, commands: list[TrainingCommand], owner: str, epoch: int) -> list[Answer]:
        """Their answers.

        Raises:
            EngineDied: not all were answered.
            EngineLost: one of them has cost too many engines, and with it the run.
        """
        sent = [self._engine.train(command, owner=owner, epoch=epoch) for command in commands]
        answers = await asyncio.gather(*sent, return_exceptions=True)
        for command, answer in zip(commands, answers, strict=True):
            if isinstance(answer, EngineDied) and answer.in_hand:
                self._deaths[command.op_id] += 1
                if self._deaths[command.op_id] >= MAX_DEATHS:
                    reason = f"the engine died {MAX_DEATHS} times while it was brought back"
                    raise await self.end_run(command.model_id, reason)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return [answer for answer in answers if isinstance(answer, Answer)]


@dataclass(frozen=True, slots=True)
class _Replay:
    """Settled operations that changed the state, with what they do."""

    rows: list[Operation]
    contents: dict[str, bytes]
    """By digest; what is missing was damaged on the disk."""

    def command(self, row: Operation) -> TrainingCommand:
        assert row.payload is not None
        return decode_payload(self.contents[row.payload], op_id=row.op_id, model_id=row.lane)


@dataclass(frozen=True, slots=True)
class UnfinishedLane:
    """What an earlier server accepted for one run and did not finish."""

    model_id: str
    last_run: int
    """The highest number that has been run."""
    operations: list[NewOperation]
    """In their order; what the server began on its own, which has no number, comes last."""


async def recover_log(store: Store, clock: Clock) -> list[UnfinishedLane]:
    """The lane of every run that an earlier server left active or with work; its samples have to be asked for again."""
    now = clock.now()

    def recover(db: Connection) -> list[UnfinishedLane]:
        unfinished: dict[str, list[NewOperation]] = {model.model_id: [] for model in models.active(db)}
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
    """Why a run that has ended takes no more operations."""
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
    """From where a new run can go on in place of one that has ended; None if it has no checkpoint."""
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
    """For what may be mended: memory that was short, a base model that is not served any more."""
    return EngineLost(f"The training run {model_id} cannot be brought back at present: {reason}")


def _kept(db: Connection, model_id: str) -> tuple[list[Snapshot], _Replay]:
    kept = snapshots.of_model(db, model_id)
    rows = operations.to_replay(db, model_id)
    digests = [row.payload for row in rows if row.payload is not None]
    return kept, _Replay(rows, payloads.contents(db, digests))


def _unfinished(db: Connection, row: Operation) -> NewOperation | None:
    """The operation as it was accepted; None if the log has lost what it was to do, or it was damaged there."""
    if row.payload is None or row.plan is None or not row.is_plan_whole:
        return None
    content = payloads.contents(db, [row.payload]).get(row.payload)
    if content is None:
        return None
    return NewOperation(
        op_id=row.op_id,
        owner=row.owner,
        lane=row.lane,
        seq_id=row.seq_id,
        kind=row.kind,
        work=decode_payload(content, op_id=row.op_id, model_id=row.lane),
        plan=decode_plan(row.plan),
    )


def _place(operation: NewOperation) -> float:
    return float("inf") if operation.seq_id is None else operation.seq_id
