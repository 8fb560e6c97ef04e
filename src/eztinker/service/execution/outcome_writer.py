"""Settlement: what operations came to is brought into the log, in order, and handed out when it is there."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime

from sqlalchemy import Connection

from eztinker.errors import EZTinkerError, LogUnwritable, NonFiniteUpdate, ServerError, StaleEpoch
from eztinker.oplog import operations
from eztinker.oplog.rows import Failure
from eztinker.oplog.store import Store
from eztinker.protocol.frames import Failed, OptimStep, Outcome, Sample, changes_state
from eztinker.service.clock import Clock
from eztinker.service.execution.operation import Operation
from eztinker.service.execution.plans import Done, store_failure

log = logging.getLogger(__name__)

STORE_RETRY_SECONDS = 1.0
MAX_TOGETHER = 64
"""Most outcomes in one transaction: other runs wait for its end."""

Settled = Callable[[Operation, Done | Failure], None]


class OutcomeWriter:
    """A queue of outcomes, stored in the order in which they are put, each of them once.

    A run has one for all its outcomes, because recovery takes everything before a stored outcome for done: it would
    otherwise run an earlier operation after a later one. What is ready at the same time shares one transaction. If
    that fails, its outcomes are stored one by one, still in order, and each meets its own error.
    """

    def __init__(self, store: Store, clock: Clock, settled: Settled, writing: set[asyncio.Task[None]]) -> None:
        """Prepare an empty queue.

        Args:
            settled: told of each operation whose outcome is in the log.
            writing: the tasks of all writers that have something to store.
        """
        self._store = store
        self._clock = clock
        self._settled = settled
        self._writing = writing
        self._ready: deque[Operation] = deque()
        self._task: asyncio.Task[None] | None = None

    def put(self, operation: Operation, ending: Outcome | Failure) -> None:
        """Store what an operation came to after everything that was put before."""
        operation.ending = ending
        self._ready.append(operation)
        if self._task is None:
            self._task = asyncio.create_task(self._write_ready(), name="outcome writer")
            self._writing.add(self._task)
            self._task.add_done_callback(self._writing.discard)

    async def stored(self, operations_: Sequence[Operation]) -> bool:
        """Wait for these, which have all been put; whether the log has taken every one of their outcomes."""
        while True:
            unstored = {each.outcome for each in operations_ if each.outcome is not None and not each.outcome.done()}
            if not unstored or self._task is None:
                return not unstored
            await asyncio.wait({self._task, *unstored}, return_when=asyncio.FIRST_COMPLETED)

    async def _write_ready(self) -> None:
        """Store what is ready, and what becomes ready meanwhile."""
        try:
            while self._ready:
                num_together = min(len(self._ready), MAX_TOGETHER)
                await self._write([self._ready.popleft() for _ in range(num_together)])
        finally:
            self._task = None

    async def _write(self, together: Sequence[Operation]) -> None:
        if len(together) > 1 and await self._write_in_one_transaction(together):
            return
        for operation in together:
            try:
                await self._write_alone(operation)
            except Exception as error:  # the log has it as pending; those behind it are stored all the same
                log.error("An outcome was not stored", exc_info=error, extra={"event": "outcome_not_stored"})

    async def _write_in_one_transaction(self, together: Sequence[Operation]) -> bool:
        """Store all of these, or none; whether they are stored."""
        changes = [self._change(each) for each in together]
        try:
            outcomes = await self._store.write(lambda db: [change(db) for change in changes])
        except Exception:  # met again by the one that it belongs to, which knows what to do about it
            return False
        for operation, outcome in zip(together, outcomes, strict=True):
            self._settled(operation, outcome)
        return True

    async def _write_alone(self, operation: Operation) -> None:
        """Store an outcome or, where that fails, the reason as the operation's failure.

        Raises:
            StaleEpoch: the engine that answered has been replaced; its answer counts for nothing.
        """
        try:
            await self._write_durably(operation)
        except StaleEpoch:
            raise
        except EZTinkerError as error:
            operation.ending = Failure.of(error)
            await self._write_durably(operation)
        except Exception:
            log.exception(
                "An operation could not be finished", extra={"event": "operation_broken", "kind": operation.kind}
            )
            operation.ending = Failure.of(ServerError("The server could not store the result; its log says why"))
            await self._write_durably(operation)

    async def _write_durably(self, operation: Operation) -> None:
        """Store an outcome, however long the disk refuses it."""
        change = self._change(operation)
        while True:
            try:
                outcome = await self._store.write(change)
                break
            except LogUnwritable:
                await asyncio.sleep(STORE_RETRY_SECONDS)
        self._settled(operation, outcome)

    def _change(self, operation: Operation) -> Callable[[Connection], Done | Failure]:
        """The change that stores how an operation ended, and gives what is to be told of it."""
        ending, now = operation.ending, self._clock.now()
        assert ending is not None
        if isinstance(ending, Failure):
            return lambda db: _fail(db, operation, ending, now=now, epoch=None)
        if isinstance(ending, Failed):
            failure = Failure(category=ending.category, code=ending.code, message=ending.message)
            return lambda db: _fail(db, operation, failure, now=now, epoch=operation.epoch)
        return lambda db: _finish(db, operation, ending, now=now)


def _finish(db: Connection, operation: Operation, ending: Outcome, *, now: datetime) -> Done:
    work, plan, epoch = operation.work, operation.plan, operation.epoch
    assert plan is not None
    assert epoch is not None
    assert not isinstance(work, EZTinkerError)
    done = plan.finish(db, ending, now)
    operations.finish(
        db,
        operation.op_id,
        epoch=epoch,
        media_type=done.media_type,
        result=done.body,
        keeps_payload=not isinstance(work, Sample) and changes_state(work),
        now=now,
    )
    return done


def _fail(db: Connection, operation: Operation, failure: Failure, *, now: datetime, epoch: int | None) -> Failure:
    # A refused step has cleared the gradient, so replaying the run has to make it, and be refused, again.
    keeps_payload = isinstance(operation.work, OptimStep) and failure.code == NonFiniteUpdate.code
    operations.fail(db, operation.op_id, failure, now=now, epoch=epoch, keeps_payload=keeps_payload)
    store_failure(db, operation.plan)
    return failure
