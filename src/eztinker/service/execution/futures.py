"""Accepts operations and hands out their outcomes: what a client is given at once, and what it then polls for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import timedelta
from weakref import WeakValueDictionary

from sqlalchemy import Connection

from eztinker.errors import EZTinkerError, ResultDamaged, ResultGone
from eztinker.oplog import operations
from eztinker.oplog.rows import Failure, OperationRow, OperationStatus
from eztinker.oplog.store import Store
from eztinker.protocol.frames import Outcome
from eztinker.service.accounts.access import owned
from eztinker.service.accounts.fair_share import Room
from eztinker.service.clock import Clock
from eztinker.service.execution.activity import Activity
from eztinker.service.execution.fetched_results import FetchedResults
from eztinker.service.execution.operation import LiveOperations, Operation
from eztinker.service.execution.outcome_writer import OutcomeWriter
from eztinker.service.execution.plans import Done
from eztinker.types import OperationKind

log = logging.getLogger(__name__)

MAX_UNSETTLED = 16384
"""Most operations that wait or run; the official client keeps up to 2000 per sampling client."""


class Futures:
    """A future for each accepted request: its id at once, and its outcome as soon as that is stored."""

    def __init__(self, store: Store, clock: Clock, live: LiveOperations) -> None:
        self.activity = Activity(clock)
        self._store = store
        self._clock = clock
        self._live = live
        self._room = Room(MAX_UNSETTLED, "requests waiting")
        self._fetched = FetchedResults()
        self._next_outcomes: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        """Events by lane; each lives as long as somebody waits for it."""
        self._writing: set[asyncio.Task[None]] = set()
        """Tasks that store outcomes."""
        self._polls_released: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def accept(self, operation: Operation) -> str:
        """Write `operation` to the log and return the id of its future; that of the first one if it is a repeat.

        Raises:
            QueueFull: its owner has its share of what may wait.
        """
        with contextlib.ExitStack() as place:
            if operation.needs_room and not operation.is_refused:
                place.enter_context(self._room.held(operation.owner))
            stored_id = await self._store.write(operation.appended(self._clock.now()))
            if stored_id == operation.op_id and not operation.is_refused:
                outcome = self.expect(operation)
                give_back = place.pop_all()
                outcome.add_done_callback(lambda _: give_back.close())
        return stored_id

    def expect(self, operation: Operation) -> asyncio.Future[Done | Failure]:
        """Let polls for an operation in the log wait for its outcome from now on; returns that outcome's future."""
        operation.outcome = asyncio.get_running_loop().create_future()
        self._live.add(operation)
        return operation.outcome

    def writer(self, settled: Callable[[Operation], None] = lambda operation: None) -> OutcomeWriter:
        """A queue of outcomes to store in order; `settled` is told of each operation whose outcome is stored."""

        def hand_out(operation: Operation, outcome: Done | Failure) -> None:
            self._hand_out(operation, outcome)
            settled(operation)

        return OutcomeWriter(self._store, self._clock, hand_out, self._writing)

    def settle(self, operation: Operation, ending: Outcome) -> None:
        """Store the outcome of an operation whose lane has no order, a sample."""
        self.writer().put(operation, ending)

    def fail(self, operation: Operation, error: EZTinkerError) -> None:
        """End an accepted operation in `error`, in no order with others."""
        self.writer().put(operation, Failure.of(error))

    def num_unsettled_of(self, owner: str) -> int:
        """Number of the owner's requests that wait or run."""
        return self._room.taken(owner)

    @property
    def num_unsettled(self) -> int:
        """Number of operations without an outcome, wherever they wait or run."""
        return sum(operation.outcome is not None for operation in self._live)

    async def settled(self) -> None:
        """Wait until every outcome that is known by now is in the log."""
        if self._writing:
            await asyncio.wait(self._writing)

    async def outcome(self, owner: str, op_id: str, *, hold_seconds: float) -> Done | Failure | None:
        """Wait for the outcome of an operation; None if it is not in the log within `hold_seconds`.

        Raises:
            NotFound: the owner has no such operation.
            ResultGone: its result was lost or has expired.
        """
        operation = self._live.get(op_id)
        if operation is None or operation.outcome is None or operation.owner != owner:
            outcome = _outcome(await self._get(owner, op_id))
        else:
            stored = operation.outcome
            await asyncio.wait(
                {stored, self._polls_released}, timeout=hold_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            outcome = stored.result() if stored.done() else None
        if isinstance(outcome, Done):
            self._fetched.hand_out(op_id, len(outcome.body), self._clock.monotonic())
        return outcome

    def release_polls(self) -> None:
        """Let every held poll go, as the server stops; the client asks the next one."""
        if not self._polls_released.done():
            self._polls_released.set_result(None)

    def next_outcome(self, lane: str) -> asyncio.Event:
        """Event that is set as soon as one more operation of the lane has its outcome in the log."""
        return self._next_outcomes.setdefault(lane, asyncio.Event())

    async def expire_results(self, retention: timedelta, max_bytes: int) -> None:
        """Drop the results that clients have had for a while, and those that nobody asks for.

        Args:
            retention: how long a result waits for its client.
            max_bytes: what all results may take; above it the oldest go.
        """
        oldest = self._clock.now() - retention
        fetched = self._fetched.take_due(self._clock.monotonic())

        def expire(db: Connection) -> int:
            operations.drop_results(db, fetched)
            operations.expire_results(db, oldest)
            return operations.drop_oldest_results(db, max_bytes)

        if num_dropped := await self._store.write(expire):
            log.warning(
                "Results took more than %d bytes; the oldest %d that no client had fetched were dropped. "
                "max_result_bytes sets the limit",
                max_bytes,
                num_dropped,
                extra={"event": "results_dropped"},
            )

    async def stop(self) -> None:
        """Give up outcomes that cannot be stored; the log has their operations as pending."""
        for task in self._writing:
            task.cancel()
        await asyncio.gather(*self._writing, return_exceptions=True)

    async def _get(self, owner: str, op_id: str) -> OperationRow:
        return owned(await self._store.read(lambda db: operations.get(db, op_id)), owner, "request")

    def _hand_out(self, operation: Operation, outcome: Done | Failure) -> None:
        assert operation.outcome is not None
        self._live.remove(operation)
        self.activity.note(operation.work, operation.ending)
        operation.outcome.set_result(outcome)
        if (event := self._next_outcomes.pop(operation.lane, None)) is not None:
            event.set()


def _outcome(row: OperationRow) -> Done | Failure | None:
    match row.status:
        case OperationStatus.PENDING:
            return None
        case OperationStatus.DONE:
            assert row.media_type is not None
            assert row.result is not None
            if not row.is_result_whole:
                return _damaged(row)
            return Done(kind=row.kind, media_type=row.media_type, body=row.result)
        case OperationStatus.FAILED:
            assert row.error_category is not None
            assert row.error_code is not None
            assert row.error_message is not None
            return Failure(category=row.error_category, code=row.error_code, message=row.error_message)
        case OperationStatus.LOST:
            raise ResultGone("The server stopped before this sample was done; ask for it again")
        case OperationStatus.EXPIRED:
            raise ResultGone("The result of this request is gone: its client had fetched it, or it was too old to keep")


def _damaged(row: OperationRow) -> Failure:
    """The failure in place of a result that the disk gives back changed; nothing of that is told.

    Raises:
        ResultGone: it was a sample, which can be drawn again.
    """
    log.error("The result of %s is damaged in the operation log", row.op_id, extra={"event": "result_damaged"})
    if row.kind is OperationKind.SAMPLE:
        raise ResultGone("This sample was damaged on the server's disk; ask for it again")
    message = (
        "This operation was done, but its result was damaged on the server's disk and is lost; go on with the next one"
    )
    return Failure.of(ResultDamaged(message))
