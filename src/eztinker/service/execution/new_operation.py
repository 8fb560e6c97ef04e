"""A request that is about to become an operation: what it is, and how it enters the log."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from datetime import datetime

import msgspec
from sqlalchemy import Connection

from eztinker.errors import EZTinkerError
from eztinker.oplog import operations, payloads
from eztinker.oplog.rows import Failure, Operation, OperationStatus
from eztinker.protocol.frames import Sample, SaveCheckpoint, TrainingCommand, encode_payload
from eztinker.service.execution.plans import Change, Plan, SamplePlan, encode_plan
from eztinker.types import OperationKind

log = logging.getLogger(__name__)


def new_op_id() -> str:
    return f"op-{secrets.token_hex(12)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class NewOperation:
    """A request on its way into the log and through the engine."""

    op_id: str
    owner: str
    lane: str
    seq_id: int | None
    kind: OperationKind
    work: TrainingCommand | Sample
    plan: Plan | SamplePlan
    also: Change | None = None
    """Rows to store together with the operation, if it is new."""
    needs_room: bool = True
    """False for what the server does on its own, which must not wait for its owner's other work."""

    def change(self, now: datetime) -> Change:
        """Appends it, and gives the id of its promise: that of the first one if this is a repeat."""
        plan = None if isinstance(self.plan, SamplePlan) else encode_plan(self.plan)
        row = msgspec.structs.replace(_row(self, now), plan=plan)

        def append(db: Connection) -> str:
            payload = None if isinstance(self.work, Sample) else encode_payload(self.work)  # megabytes: off the loop
            stored = operations.append(db, row, payload)
            if stored.op_id != self.op_id:
                self._compare(stored, payload)
            elif self.also is not None:
                self.also(db)
            return stored.op_id

        return append

    def _compare(self, first: Operation, payload: bytes | None) -> None:
        """Note where a repeat asks for something else than `first`, as far as the log still knows what that was.

        The official client never does that, so two programs may be training one run.
        """
        # every save is to go to a directory of its own, so two that are the same differ
        is_comparable = first.payload is not None and not isinstance(self.work, SaveCheckpoint)
        differs = is_comparable and payload is not None and first.payload != payloads.digest_of(payload)
        if first.kind != self.kind or differs:
            log.warning(
                "Number %d of %s came again with something else to do (%s); it was not done, the first promise holds",
                self.seq_id,
                self.lane,
                self.kind,
                extra={"event": "number_reused"},
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """A request that gets a promise and a place in its lane, but ends in an error at once."""

    op_id: str
    owner: str
    lane: str
    seq_id: int | None
    kind: OperationKind
    error: EZTinkerError

    def change(self, now: datetime) -> Change:
        """Appends it, settled, and gives the id of its promise."""
        failure = Failure.of(self.error)
        row = msgspec.structs.replace(
            _row(self, now),
            status=OperationStatus.FAILED,
            error_category=failure.category,
            error_code=failure.code,
            error_message=failure.message,
            finished_at=now,
        )
        return lambda db: operations.append(db, row).op_id


def _row(new: NewOperation | Refused, now: datetime) -> Operation:
    return Operation(op_id=new.op_id, owner=new.owner, lane=new.lane, seq_id=new.seq_id, kind=new.kind, created_at=now)
