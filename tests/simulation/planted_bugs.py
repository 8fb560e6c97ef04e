"""Mistakes that the server could have made, each put into its real code for the length of a block."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from eztinker.oplog import checkpoints, payloads, snapshots
from eztinker.oplog import operations as operation_queries
from eztinker.oplog import sessions as session_queries
from eztinker.oplog.rows import Checkpoint, Model, OperationRow
from eztinker.service.accounts.fair_share import Room
from eztinker.service.checkpoints import collector, copies
from eztinker.service.checkpoints.collector import CheckpointCollector
from eztinker.service.checkpoints.copies import CheckpointCopies
from eztinker.service.execution import recovery
from eztinker.service.execution.engine_process import EngineProcess
from eztinker.service.execution.futures import Futures
from eztinker.service.execution.lanes import Lane
from eztinker.service.execution.operation import Operation
from eztinker.service.execution.outcome_writer import OutcomeWriter
from eztinker.service.execution.run_feed import RunFeed
from eztinker.service.service import Service
from eztinker.service.sessions.sessions import Sessions
from eztinker.service.training.training import SaveRequest, Training

Planted = Callable[[], AbstractContextManager[Any]]


def _acknowledge_before_commit() -> AbstractContextManager[Any]:
    async def accept(self: Futures, operation: Operation) -> str:
        writing = asyncio.create_task(real(self, operation))
        if operation.is_refused:
            return await writing
        writing.add_done_callback(lambda task: task.exception())
        self.expect(operation)
        return operation.op_id

    real = Futures.accept
    return patch.object(Futures, "accept", accept)


def _tell_before_commit() -> AbstractContextManager[Any]:
    async def write(self: OutcomeWriter, together: Sequence[Operation]) -> None:
        def try_out(db: Any) -> list[Any]:
            with db.begin_nested() as attempt:
                outcomes = [self._change(each)(db) for each in together]
                attempt.rollback()
            return outcomes

        try:
            outcomes = await self._store.write(try_out)
        except Exception:
            await real(self, together)
            return
        for operation, outcome in zip(together, outcomes, strict=True):
            assert operation.outcome is not None
            operation.outcome.set_result(outcome)
            operation.outcome = asyncio.Future()
        await asyncio.sleep(1)
        await real(self, together)

    real = OutcomeWriter._write
    return patch.object(OutcomeWriter, "_write", write)


def _snapshot_before_outcomes() -> AbstractContextManager[Any]:
    async def stored(self: OutcomeWriter, operations: Sequence[Operation]) -> bool:
        return True

    return patch.object(OutcomeWriter, "stored", stored)


def _release_too_early() -> AbstractContextManager[Any]:
    def add(db: Any, snapshot: Any) -> None:
        real(db, snapshot)
        payloads.release_covered(db, snapshot.model_id, snapshot.seq_id)

    real = snapshots.add
    return patch.object(snapshots, "add", add)


def _forget_to_send_again() -> AbstractContextManager[Any]:
    def answered(self: RunFeed, operation: Operation, answer: Any) -> None:
        if not answer.cancelled() and answer.exception() is None:
            real(self, operation, answer)
        else:
            operation.is_sent = True

    real = RunFeed._answered
    return patch.object(RunFeed, "_answered", answered)


def _start_as_they_come() -> AbstractContextManager[Any]:
    def arrive(self: Lane[Any], seq_id: int, item: Any, **_: Any) -> list[Any]:
        self._next_seq_id = max(self._next_seq_id, seq_id + 1)
        return [item]

    return patch.object(Lane, "arrive", arrive)


def _wait_for_gaps_for_ever() -> AbstractContextManager[Any]:
    return patch.object(Lane, "release_due", lambda self, now: [])


def _keep_places() -> AbstractContextManager[Any]:
    return patch.object(Room, "leave", lambda self, owner: None)


def _forget_refused_steps() -> AbstractContextManager[Any]:
    def fail(db: Any, op_id: str, failure: Any, *, keeps_payload: bool = False, **more: Any) -> None:
        real(db, op_id, failure, **more)

    real = operation_queries.fail
    return patch.object(operation_queries, "fail", fail)


def _forget_the_unfinished() -> AbstractContextManager[Any]:
    def unfinished(db: Any, row: OperationRow) -> Any:
        return real(db, row) if row.seq_id == 0 or row.seq_id is None else None

    real = recovery._unfinished
    return patch.object(recovery, "_unfinished", unfinished)


def _run_repeats_again() -> AbstractContextManager[Any]:
    def append(db: Any, operation: OperationRow, payload: bytes | None = None) -> OperationRow:
        if (
            operation.seq_id is not None
            and operation.plan is not None
            and operation_queries.get(db, operation.op_id) is None
        ):
            db.exec_driver_sql(
                "UPDATE operations SET seq_id = NULL WHERE lane = ? AND seq_id = ?", (operation.lane, operation.seq_id)
            )
        return real(db, operation, payload)

    real = operation_queries.append
    return patch.object(operation_queries, "append", append)


def _leave_what_ended_sessions_hold() -> AbstractContextManager[Any]:
    async def nothing(self: Sessions) -> list[str]:
        return []

    return patch.object(Sessions, "with_leftovers", nothing)


def _store_outcomes_as_they_come() -> AbstractContextManager[Any]:
    def put(self: OutcomeWriter, operation: Operation, ending: Any) -> None:
        real(OutcomeWriter(self._store, self._clock, self._settled, self._writing), operation, ending)

    real = OutcomeWriter.put
    return patch.object(OutcomeWriter, "put", put)


def _end_with_the_first_refusal() -> AbstractContextManager[Any]:
    """As the supervisor once did."""

    async def supervise(self: EngineProcess) -> None:
        while True:
            await self._live_once()
            await asyncio.sleep(0.1)

    return patch.object(EngineProcess, "_supervise", supervise)


def _no_housekeeping() -> AbstractContextManager[Any]:
    async def keep_house(self: Service) -> None:
        await asyncio.Event().wait()

    return patch.object(Service, "_keep_house", keep_house)


def _make_room_before_the_save() -> AbstractContextManager[Any]:
    async def planned(self: Training, model: Model, request: SaveRequest) -> Checkpoint:
        if request.overwrite:
            for old in await self._saved.of_run(model.owner, model.model_id):
                if old.name == request.name:
                    await self._saved._store.write(
                        partial(checkpoints.remove, checkpoint_id=old.checkpoint_id, now=old.created_at)
                    )
        return await real(self, model, request)

    real = Training._planned
    return patch.object(Training, "_planned", planned)


def _collect_what_is_used() -> AbstractContextManager[Any]:
    return patch.object(collector, "in_use", lambda db: set())


def _find_what_has_expired() -> AbstractContextManager[Any]:
    return patch.object(Checkpoint, "has_expired", lambda self, now: False)


def _let_nothing_expire() -> AbstractContextManager[Any]:
    async def expire(self: CheckpointCollector) -> None:
        pass

    return patch.object(CheckpointCollector, "expire", expire)


def _point_to_the_original() -> AbstractContextManager[Any]:
    return patch.object(copies, "copy_checkpoint", lambda source, directory: directory.symlink_to(source))


def _list_a_copy_before_its_files() -> AbstractContextManager[Any]:
    def copy(source: Path, directory: Path) -> None:
        asyncio.get_running_loop().call_later(1, real, source, directory)

    real = copies.copy_checkpoint
    return patch.object(copies, "copy_checkpoint", copy)


def _copy_again() -> AbstractContextManager[Any]:
    async def slot(self: CheckpointCopies, owner: str, target: Any, idempotency_key: str | None) -> tuple[str, int]:
        return await real(self, owner, target, None)

    real = CheckpointCopies._slot
    return patch.object(CheckpointCopies, "_slot", slot)


def _lose_without_announcing() -> AbstractContextManager[Any]:
    def lose(db: Any, op_id: str, now: Any) -> None:
        db.exec_driver_sql("UPDATE operations SET status = 'lost' WHERE op_id = ?", (op_id,))

    return patch.object(operation_queries, "mark_lost", lose)


def _stay_with_the_own_save() -> AbstractContextManager[Any]:
    return patch.object(session_queries, "current_checkpoint_id", lambda db, sampler: sampler.checkpoint_id)


PLANTED: dict[str, Planted] = {
    "a future is given before the log has the operation": _acknowledge_before_commit,
    "an outcome is told before the log has it": _tell_before_commit,
    "a snapshot is added before the outcomes it covers": _snapshot_before_outcomes,
    "payloads are released by the newest snapshot": _release_too_early,
    "what a dead engine had is not sent again": _forget_to_send_again,
    "operations start as they come": _start_as_they_come,
    "gaps are waited for for ever": _wait_for_gaps_for_ever,
    "places in the queue are not given back": _keep_places,
    "a refused step is not replayed": _forget_refused_steps,
    "a restarted server forgets what was unfinished": _forget_the_unfinished,
    "a repeated request runs again": _run_repeats_again,
    "sessions that ended before a crash keep their runs": _leave_what_ended_sessions_hold,
    "the outcomes of a run are stored as they come": _store_outcomes_as_they_come,
    "the first refusal ends the supervisor": _end_with_the_first_refusal,
    "nobody keeps house": _no_housekeeping,
    "the old checkpoint is removed before the new one is saved": _make_room_before_the_save,
    "checkpoints are collected that are still read": _collect_what_is_used,
    "what has expired is found until it is collected": _find_what_has_expired,
    "nothing expires": _let_nothing_expire,
    "a copy is the original under another name": _point_to_the_original,
    "a copy is listed before its files are there": _list_a_copy_before_its_files,
    "a copy that is asked for again is made again": _copy_again,
    "lost samples are not announced": _lose_without_announcing,
    "an inflight sampler stays with its own save": _stay_with_the_own_save,
}
