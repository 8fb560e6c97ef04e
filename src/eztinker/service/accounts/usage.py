"""The usage ledger: tokens that were computed and checkpoints that are kept, by hour, session and run."""

from __future__ import annotations

from datetime import datetime, timedelta

from eztinker.errors import InvalidInput
from eztinker.oplog import session_search, sessions, usage
from eztinker.oplog.rows import Model, SamplingSession, Session, Usage, UsageKind
from eztinker.oplog.session_search import Stored
from eztinker.oplog.store import Store
from eztinker.service.clock import Clock
from eztinker.types import SampleResult

HOUR = timedelta(hours=1)
RETENTION = timedelta(days=400)
LONGEST_WINDOW = timedelta(days=14)


class UsageLedger:
    """Reads the ledger, in which only work that really ran is: it is written together with the result."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def between(self, owner: str, start: datetime, end: datetime) -> tuple[list[Usage], dict[str, Session]]:
        """Sum the owner's use from `start` to before `end`, with the sessions it belongs to.

        Raises:
            InvalidInput: the two are no window of whole hours, at most two weeks long, that has begun.
        """
        for field, value in (("starting_on", start), ("ending_before", end)):
            if value.tzinfo is None or (value - datetime.min.replace(tzinfo=value.tzinfo)) % HOUR:
                raise InvalidInput(f"{field} must be a whole hour with its time zone, got {value}", field=field)
        if not timedelta(0) < end - start <= LONGEST_WINDOW:
            raise InvalidInput(
                f"ending_before must be after starting_on, by at most {LONGEST_WINDOW.days} days", field="ending_before"
            )
        if start > self._clock.now():
            raise InvalidInput(f"starting_on must not be in the future, got {start}", field="starting_on")

        def query(db) -> tuple[list[Usage], dict[str, Session]]:
            rows = usage.between(db, owner, start, end)
            found = {row.session_id: sessions.session(db, row.session_id) for row in rows}
            return rows, {session_id: row for session_id, row in found.items() if row is not None}

        return await self._store.read(query)

    async def expire(self) -> None:
        """Drop entries that are too old."""
        oldest = self._clock.now() - RETENTION
        await self._store.write(lambda db: usage.forget(db, oldest))

    async def stored(self, owner: str) -> dict[str, Stored]:
        """Bytes of the owner's named checkpoints on disk now, by project."""
        now = self._clock.now()
        return await self._store.read(lambda db: session_search.stored_by_project(db, owner, now))


def used_by_run(model: Model, kind: UsageKind, amount: int, now: datetime) -> Usage:
    """Make the entry of a training run for the hour it is now."""
    return Usage(
        owner=model.owner,
        hour=hour_of(now),
        session_id=model.session_id,
        model_id=model.model_id,
        base_model=model.base_model,
        kind=kind,
        amount=amount,
    )


def used_by_sample(
    sampler: SamplingSession,
    model_id: str | None,
    num_prompt_tokens: int,
    result: SampleResult,
    now: datetime,
) -> list[Usage]:
    """Make the entries of one sampling request for this hour; its prompt counts once for all its samples."""
    cached = result.prompt_cache_hit_tokens
    amounts = {
        UsageKind.PREFILL: num_prompt_tokens - cached,
        UsageKind.CACHED_PREFILL: cached,
        UsageKind.SAMPLING: sum(len(sequence.tokens) for sequence in result.sequences),
    }
    return [
        Usage(
            owner=sampler.owner,
            hour=hour_of(now),
            session_id=sampler.session_id,
            model_id=model_id,
            base_model=sampler.base_model,
            kind=kind,
            amount=amount,
        )
        for kind, amount in amounts.items()
        if amount > 0
    ]


def hour_of(now: datetime) -> datetime:
    return now.replace(minute=0, second=0, microsecond=0)
