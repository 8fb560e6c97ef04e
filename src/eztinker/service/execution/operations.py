"""The life of an accepted operation: into the log, its outcome into the log, and out to who waits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from weakref import WeakValueDictionary

from sqlalchemy import Connection

from eztinker.errors import (
    EZTinkerError,
    LogUnwritable,
    NonFiniteUpdate,
    ResultDamaged,
    ResultGone,
    ServerError,
    StaleEpoch,
)
from eztinker.oplog import operations
from eztinker.oplog.rows import Failure, Operation, OperationStatus
from eztinker.oplog.store import Store
from eztinker.protocol.frames import Failed, OptimStep, Sample, changes_state
from eztinker.service.accounts.access import owned
from eztinker.service.accounts.fair_share import Room
from eztinker.service.clock import Clock
from eztinker.service.execution.activity import Activity
from eztinker.service.execution.engine_process import Answer
from eztinker.service.execution.fetched_results import FetchedResults
from eztinker.service.execution.new_operation import NewOperation, Refused
from eztinker.service.execution.plans import store_failure
from eztinker.types import OperationKind, Record

log = logging.getLogger(__name__)

STORE_RETRY_SECONDS = 1.0
MAX_UNSETTLED = 16384
"""Operations that wait or run; the official client keeps up to 2000 per sampling client."""


@dataclass(frozen=True, slots=True)
class _Unsettled:
    """An operation of this process that has no outcome yet. Polls wait for it here, without asking the log."""

    owner: str
    outcome: asyncio.Future[Done | Failure]


class Done(Record):
    """The result of an operation, as it is stored."""

    kind: OperationKind
    media_type: str
    body: bytes


class Operations:
    """Takes operations into the log and their outcomes, and hands these out."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self.activity = Activity(clock)
        self._clock = clock
        self._room = Room(MAX_UNSETTLED, "requests waiting")
        self._fetched = FetchedResults()
        self._unsettled: dict[str, _Unsettled] = {}
        self._next_outcomes: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        """By lane; an event lives as long as somebody waits for it."""
        self._storing: set[asyncio.Task[None]] = set()
        self._polls_released: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def accept(self, new: NewOperation | Refused) -> str:
        """Write `new` to the log and return the id of its promise; that of the first one if it is a repeat.

        Raises:
            QueueFull: its owner has its share of what may wait.
        """
        with contextlib.ExitStack() as place:
            if isinstance(new, NewOperation) and new.needs_room:
                place.enter_context(self._room.held(new.owner))
            stored_id = await self._store.write(new.change(self._clock.now()))
            if stored_id == new.op_id and isinstance(new, NewOperation):
                self.expect(new)
                give_back = place.pop_all()
                self._unsettled[new.op_id].outcome.add_done_callback(lambda _: give_back.close())
        return stored_id

    def expect(self, new: NewOperation) -> None:
        """From now on polls for an operation in the log wait for its outcome."""
        self._unsettled[new.op_id] = _Unsettled(new.owner, asyncio.get_running_loop().create_future())

    def follow(self, new: NewOperation, answer: asyncio.Future[Answer]) -> asyncio.Future[Done | Failure]:
        """Settle an operation when its answer is there, or fail it with the error that is there instead.

        Gives the outcome, which is there when the log has it.
        """
        outcome = self._unsettled[new.op_id].outcome
        answer.add_done_callback(partial(self._answered, new))
        return outcome

    def settle(
        self, new: NewOperation, answer: Answer, *, after: asyncio.Task[None] | None = None
    ) -> asyncio.Task[None]:
        """Store what the engine answered and wake who waits for it; the task ends when both is done.

        Args:
            after: the storing of another outcome, which is to be over before this one begins.
        """
        self.activity.note(new.work, answer.event)
        return self._keep(partial(self._settle, new, answer), after)

    def settle_together(
        self, answered: Sequence[tuple[NewOperation, Answer]], *, after: asyncio.Task[None] | None = None
    ) -> asyncio.Task[None]:
        """Store several answers in one commit, or none of them; `settle`, called for each, then stores what is left."""
        return self._keep(partial(self._settle_together, answered), after)

    def fail(
        self, new: NewOperation, error: EZTinkerError, *, after: asyncio.Task[None] | None = None
    ) -> asyncio.Task[None]:
        """End an accepted operation in `error`; `after` as in `settle`."""
        return self._keep(partial(self._fail, new, Failure.of(error)), after)

    def num_unsettled_of(self, owner: str) -> int:
        """The owner's requests that wait or run."""
        return self._room.taken(owner)

    @property
    def num_unsettled(self) -> int:
        """Operations without an outcome, wherever they wait or run."""
        return len(self._unsettled)

    async def settled(self) -> None:
        """Until every outcome that is known by now is in the log."""
        if self._storing:
            await asyncio.wait(self._storing)

    async def outcome(self, owner: str, op_id: str, *, hold_seconds: float) -> Done | Failure | None:
        """What became of an operation: as soon as it is known, or None if it is not within `hold_seconds`.

        Raises:
            NotFound: the owner has no such operation.
            ResultGone: its result was lost or has expired.
        """
        unsettled = self._unsettled.get(op_id)
        if unsettled is None or unsettled.owner != owner:
            outcome = _outcome(await self._get(owner, op_id))
        else:
            await asyncio.wait(
                {unsettled.outcome, self._polls_released}, timeout=hold_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            outcome = unsettled.outcome.result() if unsettled.outcome.done() else None
        if isinstance(outcome, Done):
            self._fetched.hand_out(op_id, len(outcome.body), self._clock.monotonic())
        return outcome

    def release_polls(self) -> None:
        """Hold no poll any longer: the server stops, and the client asks the next one."""
        if not self._polls_released.done():
            self._polls_released.set_result(None)

    def next_outcome(self, lane: str) -> asyncio.Event:
        """Set as soon as one more operation of the lane has its outcome in the log."""
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
        for task in self._storing:
            task.cancel()
        await asyncio.gather(*self._storing, return_exceptions=True)

    def _answered(self, new: NewOperation, answer: asyncio.Future[Answer]) -> None:
        if answer.cancelled():
            return  # the server stops
        error = answer.exception()
        if error is None:
            self.settle(new, answer.result())
        else:
            assert isinstance(error, EZTinkerError)
            self.fail(new, error)

    async def _get(self, owner: str, op_id: str) -> Operation:
        return owned(await self._store.read(lambda db: operations.get(db, op_id)), owner, "request")

    async def _settle(self, new: NewOperation, answer: Answer) -> None:
        if new.op_id not in self._unsettled:
            return  # stored together with others
        try:
            await self._write(new, self._stored_answer(new, answer))
        except StaleEpoch:
            raise
        except EZTinkerError as error:
            await self._fail(new, Failure.of(error))
        except Exception:
            log.exception("An operation could not be finished", extra={"event": "operation_broken", "kind": new.kind})
            error = ServerError("The server could not store the result; its log says why")
            await self._fail(new, Failure.of(error))

    async def _settle_together(self, answered: Sequence[tuple[NewOperation, Answer]]) -> None:
        changes = [self._stored_answer(new, answer) for new, answer in answered]
        try:
            outcomes = await self._store.write(lambda db: [change(db) for change in changes])
        except Exception:  # `settle` meets it again, alone, and knows what to do about it
            return
        for (new, _), outcome in zip(answered, outcomes, strict=True):
            self._hand_out(new, outcome)

    def _stored_answer(self, new: NewOperation, answer: Answer) -> Callable[[Connection], Done | Failure]:
        """The change that stores what the engine answered, and gives what is to be told of it."""
        event, now = answer.event, self._clock.now()
        if isinstance(event, Failed):
            failure = Failure(category=event.category, code=event.code, message=event.message)
            return self._stored_failure(new, failure, epoch=answer.epoch)

        def finish(db: Connection) -> Done:
            finished = new.plan.finish(event, now)  # here, where it keeps no request waiting
            if finished.also is not None:
                finished.also(db)
            operations.finish(
                db,
                new.op_id,
                epoch=answer.epoch,
                media_type=finished.media_type,
                result=finished.body,
                keeps_payload=not isinstance(new.work, Sample) and changes_state(new.work),
                now=now,
            )
            return Done(kind=new.kind, media_type=finished.media_type, body=finished.body)

        return finish

    def _stored_failure(
        self, new: NewOperation, failure: Failure, *, epoch: int | None = None
    ) -> Callable[[Connection], Failure]:
        now = self._clock.now()
        # A refused step has cleared the gradient, so replaying the run has to make it, and be refused, again.
        keeps_payload = isinstance(new.work, OptimStep) and failure.code == NonFiniteUpdate.code

        def fail(db: Connection) -> Failure:
            operations.fail(db, new.op_id, failure, now=now, epoch=epoch, keeps_payload=keeps_payload)
            store_failure(db, new.plan)
            return failure

        return fail

    async def _fail(self, new: NewOperation, failure: Failure) -> None:
        await self._write(new, self._stored_failure(new, failure))

    async def _write(self, new: NewOperation, change: Callable[[Connection], Done | Failure]) -> None:
        """Store the outcome that `change` gives, however long the disk refuses it, and hand it out only then."""
        while True:
            try:
                outcome = await self._store.write(change)
                break
            except LogUnwritable:
                await asyncio.sleep(STORE_RETRY_SECONDS)
        self._hand_out(new, outcome)

    def _hand_out(self, new: NewOperation, outcome: Done | Failure) -> None:
        self._unsettled.pop(new.op_id).outcome.set_result(outcome)
        if (event := self._next_outcomes.pop(new.lane, None)) is not None:
            event.set()

    def _keep(
        self, store: Callable[[], Coroutine[None, None, None]], after: asyncio.Task[None] | None
    ) -> asyncio.Task[None]:
        task = asyncio.create_task(_in_turn(store, after))
        self._storing.add(task)
        task.add_done_callback(self._stored)
        return task

    def _stored(self, task: asyncio.Task[None]) -> None:
        self._storing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("An outcome was not stored", exc_info=error, extra={"event": "outcome_not_stored"})


async def _in_turn(store: Callable[[], Coroutine[None, None, None]], after: asyncio.Task[None] | None) -> None:
    if after is not None:
        await asyncio.wait({after})
    await store()


def _outcome(row: Operation) -> Done | Failure | None:
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


def _damaged(row: Operation) -> Failure:
    """What is told in place of a result that the disk gives back changed: nothing that was computed from it.

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
