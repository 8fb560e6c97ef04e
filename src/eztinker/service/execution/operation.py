"""The record of one operation, from the moment it is accepted until its outcome is in the log."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

import msgspec
from sqlalchemy import Connection

from eztinker.errors import EZTinkerError
from eztinker.oplog import operations, payloads
from eztinker.oplog.rows import Failure, OperationRow, OperationStatus
from eztinker.protocol.frames import Outcome, Sample, SaveCheckpoint, TrainingCommand, encode_payload
from eztinker.service.execution.plans import Change, Done, Plan, SamplePlan, encode_plan
from eztinker.types import OperationKind

log = logging.getLogger(__name__)


def new_op_id() -> str:
    return f"op-{secrets.token_hex(12)}"


@dataclass(kw_only=True, slots=True, eq=False)
class Operation:
    """One request, with what it is to do and how far it has come; the only thing that this package hands around.

    What was asked for never changes. The fields below `needs_room` tell its progress, and are set by the one part
    that each names.
    """

    op_id: str
    owner: str
    lane: str
    """The training run or the sampling session it belongs to."""
    seq_id: int | None
    """Place in the lane; None for what the server does on its own, and for an unload."""
    kind: OperationKind
    work: TrainingCommand | Sample | EZTinkerError
    """The command for the engine; for a refused operation, the error that it ends in at once."""
    plan: Plan | SamplePlan | None = None
    """Makes the client's answer and rows of the outcome; None where refused, or where it is not in the log."""
    stored_with: Change | None = None
    """Rows to store together with the operation, if it is new."""
    is_chunked: bool = False
    """Whether the client may send it before operations with lower numbers."""
    needs_room: bool = True
    """False for what the server does on its own, which must not wait for its owner's other work."""

    outcome: asyncio.Future[Done | Failure] | None = field(default=None, init=False)
    """Ends when the outcome is in the log. `Futures` makes it and ends it; None for what is not in the log, which is
    snapshots and what recovery runs again."""
    is_sent: bool = field(default=False, init=False)
    """Whether a living engine has it, or has answered it; set by the engine process."""
    epoch: int | None = field(default=None, init=False)
    """The engine it was sent to last; set by the engine process."""
    answer: asyncio.Future[Outcome] | None = field(default=None, init=False)
    """The engine's outcome for it; made anew by the engine process whenever it is handed over."""
    num_deaths: int = field(default=0, init=False)
    """Engines that died over it; counted by the engine process."""
    ending: Outcome | Failure | None = field(default=None, init=False)
    """The outcome about to be stored: the engine's answer, or why the server gave it up; set by the outcome writer."""

    def refused(self, error: EZTinkerError) -> Operation:
        """A copy of this request that only takes its place, and ends in `error` at once."""
        return dataclasses.replace(self, work=error, plan=None, stored_with=None)

    @property
    def is_refused(self) -> bool:
        return isinstance(self.work, EZTinkerError)

    def appended(self, now: datetime) -> Change:
        """The change that appends it to the log and returns the id of its future; for a repeat, that of the first."""
        row = OperationRow(
            op_id=self.op_id, owner=self.owner, lane=self.lane, seq_id=self.seq_id, kind=self.kind, created_at=now
        )
        if isinstance(self.work, EZTinkerError):
            failed = _failed(row, self.work, now)
            return lambda db: operations.append(db, failed).op_id
        work = self.work
        if self.plan is not None and not isinstance(self.plan, SamplePlan):
            row = msgspec.structs.replace(row, plan=encode_plan(self.plan))

        def append(db: Connection) -> str:
            payload = None if isinstance(work, Sample) else encode_payload(work)  # megabytes: off the loop
            stored = operations.append(db, row, payload)
            if stored.op_id != self.op_id:
                self._compare(stored, payload)
            elif self.stored_with is not None:
                self.stored_with(db)
            return stored.op_id

        return append

    def _compare(self, first: OperationRow, payload: bytes | None) -> None:
        """Note where a repeat asks for something else than `first`, as far as the log still knows what that was.

        The official client never does that, so two programs may be training one run.
        """
        # every save is to go to a directory of its own, so two that are the same differ
        is_comparable = first.payload is not None and not isinstance(self.work, SaveCheckpoint)
        differs = is_comparable and payload is not None and first.payload != payloads.digest_of(payload)
        if first.kind != self.kind or differs:
            log.warning(
                "Number %d of %s came again with something else to do (%s); it was not done, the first future holds",
                self.seq_id,
                self.lane,
                self.kind,
                extra={"event": "number_reused"},
            )


class LiveOperations:
    """The operations that have no outcome yet, by id: polls, feeds, sample turns and the engine find them here."""

    def __init__(self) -> None:
        self._by_id: dict[str, Operation] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Operation]:
        return iter(self._by_id.values())

    def get(self, op_id: str) -> Operation | None:
        return self._by_id.get(op_id)

    def add(self, operation: Operation) -> None:
        assert operation.op_id not in self._by_id, "an operation lives once"
        self._by_id[operation.op_id] = operation

    def remove(self, operation: Operation) -> None:
        del self._by_id[operation.op_id]


def _failed(row: OperationRow, error: EZTinkerError, now: datetime) -> OperationRow:
    failure = Failure.of(error)
    return msgspec.structs.replace(
        row,
        status=OperationStatus.FAILED,
        error_category=failure.category,
        error_code=failure.code,
        error_message=failure.message,
        finished_at=now,
    )
