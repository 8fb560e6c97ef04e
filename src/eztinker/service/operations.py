"""The life of an accepted operation: into the log, to the engine, its outcome into the log, and out to who waits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from weakref import WeakValueDictionary

import orjson
from sqlalchemy import Connection

from eztinker.errors import EngineLost, EZTinkerError, ResultGone, ServerError
from eztinker.oplog import operations
from eztinker.oplog.rows import Failure, Operation, OperationStatus
from eztinker.oplog.store import Store
from eztinker.protocol.frames import AnyEvent, Failed, Sample, TrainingCommand
from eztinker.service.access import owned
from eztinker.service.clock import Clock
from eztinker.service.engine_process import EngineProcess
from eztinker.service.fair_share import Room
from eztinker.service.recovery import recover_run
from eztinker.types import Record

log = logging.getLogger(__name__)

JSON = "application/json"
PROTOBUF = "application/x-protobuf"
MAX_UNSETTLED = 16384
"""Operations that wait or run; the official client keeps up to 2000 per sampling client."""

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


@dataclass(frozen=True, slots=True)
class _Unsettled:
    """An operation of this process that has no outcome yet. Polls wait for it here, without asking the log."""

    owner: str
    outcome: asyncio.Future[Done | Failure]


@dataclass(frozen=True, kw_only=True, slots=True)
class NewOperation:
    """A request on its way into the log."""

    op_id: str
    owner: str
    lane: str
    seq_id: int | None
    kind: str
    work: TrainingCommand | Sample | EZTinkerError
    """The command to run or, for a request that cannot be granted, the error its promise ends in."""
    finish: Callable[[AnyEvent], Finished]
    """Encodes the engine's event; runs off the event loop."""
    also: Change | None = None
    """Rows to store together with the operation, if it is new."""
    also_if_failed: Change | None = None
    """Rows to store together with its failure."""
    needs_room: bool = True
    """False for what the server does on its own, which must not wait for its owner's other work."""


class Done(Record):
    """The result of an operation, as it is stored."""

    kind: str
    media_type: str
    body: bytes


def new_op_id() -> str:
    return f"op-{secrets.token_hex(12)}"


class Operations:
    """Accepts operations durably, runs them on the engine and hands out their outcomes."""

    def __init__(self, store: Store, engine: EngineProcess, clock: Clock) -> None:
        self._store = store
        self._engine = engine
        self._clock = clock
        self._room = Room(MAX_UNSETTLED, "requests waiting")
        self._unsettled: dict[str, _Unsettled] = {}
        self._next_outcomes: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        """By lane; an event lives as long as somebody waits for it."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def accept(self, new: NewOperation) -> str:
        """Write `new` to the log and return the id of its promise; that of the first one if it is a repeat.

        Raises:
            QueueFull: its owner has its share of what may wait.
        """
        row = Operation(
            op_id=new.op_id,
            owner=new.owner,
            lane=new.lane,
            seq_id=new.seq_id,
            kind=new.kind,
            created_at=self._clock.now(),
        )

        def append(db: Connection) -> Operation:
            stored = operations.append(db, row)
            if stored.op_id == new.op_id and new.also is not None:
                new.also(db)
            return stored

        with contextlib.ExitStack() as place:
            if new.needs_room:
                place.enter_context(self._room.held(new.owner))
            stored = await self._store.write(append)
            if stored.op_id == new.op_id:
                outcome = asyncio.get_running_loop().create_future()
                self._unsettled[new.op_id] = _Unsettled(new.owner, outcome)
                give_back = place.pop_all()
                outcome.add_done_callback(lambda _: give_back.close())
        return stored.op_id

    def start(self, new: NewOperation) -> asyncio.Future[Done | Failure]:
        """Send an accepted operation to the engine, in the order of calls, and see to its outcome, which it gives."""
        outcome = self._unsettled[new.op_id].outcome
        if isinstance(new.work, EZTinkerError):
            self._spawn(self._fail(new, Failure.of(new.work)))
        else:
            self._spawn(self._settle(new, self._engine.submit(new.work)))
        return outcome

    def refuse(self, new: NewOperation, error: EZTinkerError) -> None:
        """End an accepted operation in `error`."""
        self._spawn(self._fail(new, Failure.of(error)))

    def lose(self, new: NewOperation) -> None:
        """End an accepted operation whose run is gone."""
        self._spawn(self._fail_lost(new))

    async def outcome(self, owner: str, op_id: str, *, hold_seconds: float) -> Done | Failure | None:
        """What became of an operation: as soon as it is known, or None if it is not within `hold_seconds`.

        Raises:
            NotFound: the owner has no such operation.
            ResultGone: its result was lost or has expired.
        """
        unsettled = self._unsettled.get(op_id)
        if unsettled is None or unsettled.owner != owner:
            return _outcome(await self._get(owner, op_id))
        done, _ = await asyncio.wait({unsettled.outcome}, timeout=hold_seconds)
        return unsettled.outcome.result() if done else None

    def cancel(self, owner: str, op_id: str) -> None:
        """Give up a sample that the engine has and has not finished; whatever else `op_id` may name is left alone."""
        unsettled = self._unsettled.get(op_id)
        if unsettled is not None and unsettled.owner == owner:
            self._engine.cancel(op_id)

    def next_outcome(self, lane: str) -> asyncio.Event:
        """Set as soon as one more operation of the lane has its outcome in the log."""
        return self._next_outcomes.setdefault(lane, asyncio.Event())

    async def expire_results(self, retention: timedelta) -> None:
        """Drop the results that have been there for longer than `retention`."""
        oldest = self._clock.now() - retention
        await self._store.write(lambda db: operations.expire_results(db, oldest))

    async def stop(self) -> None:
        """Give up the operations in hand; the log has them as pending."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _get(self, owner: str, op_id: str) -> Operation:
        return owned(await self._store.read(lambda db: operations.get(db, op_id)), owner, "request")

    async def _settle(self, new: NewOperation, outcome: asyncio.Future[AnyEvent]) -> None:
        try:
            event = await outcome
            if isinstance(event, Failed):
                await self._fail(new, Failure(category=event.category, code=event.code, message=event.message))
            else:
                await self._finish(new, await asyncio.to_thread(new.finish, event))
        except EngineLost as error:
            await (self._fail(new, Failure.of(error)) if isinstance(new.work, Sample) else self._fail_lost(new))
        except EZTinkerError as error:
            await self._fail(new, Failure.of(error))
        except Exception:
            log.exception("An operation could not be finished", extra={"event": "operation_broken", "kind": new.kind})
            error = ServerError("The server could not store the result; its log says why")
            await self._fail(new, Failure.of(error))

    async def _finish(self, new: NewOperation, finished: Finished) -> None:
        now = self._clock.now()

        def finish(db: Connection) -> None:
            if finished.also is not None:
                finished.also(db)
            operations.finish(db, new.op_id, media_type=finished.media_type, result=finished.body, now=now)

        await self._store.write(finish)
        self._wake(new, Done(kind=new.kind, media_type=finished.media_type, body=finished.body))

    async def _fail_lost(self, new: NewOperation) -> None:
        await self._fail(new, Failure.of(await recover_run(self._store, new.lane)))

    async def _fail(self, new: NewOperation, failure: Failure) -> None:
        now = self._clock.now()

        def fail(db: Connection) -> None:
            operations.fail(db, new.op_id, failure, now)
            if new.also_if_failed is not None:
                new.also_if_failed(db)

        await self._store.write(fail)
        self._wake(new, failure)

    def _wake(self, new: NewOperation, outcome: Done | Failure) -> None:
        self._unsettled.pop(new.op_id).outcome.set_result(outcome)
        if (event := self._next_outcomes.pop(new.lane, None)) is not None:
            event.set()

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _outcome(row: Operation) -> Done | Failure | None:
    match row.status:
        case OperationStatus.PENDING:
            return None
        case OperationStatus.DONE:
            assert row.media_type is not None
            assert row.result is not None
            return Done(kind=row.kind, media_type=row.media_type, body=row.result)
        case OperationStatus.FAILED:
            assert row.error_category is not None
            assert row.error_code is not None
            assert row.error_message is not None
            return Failure(category=row.error_category, code=row.error_code, message=row.error_message)
        case OperationStatus.LOST:
            raise ResultGone("The server stopped before this sample was done; ask for it again")
        case OperationStatus.EXPIRED:
            raise ResultGone("The result of this request is gone: its client had fetched it, or it was a day old")
