"""Which samples of a sampling client are over: one poll for all of them, instead of one for each."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection
from functools import partial

from eztinker.errors import InvalidInput
from eztinker.oplog import operations, sessions
from eztinker.oplog.rows import SettledOperation
from eztinker.oplog.store import Store
from eztinker.service.accounts.access import owned
from eztinker.service.clock import Clock
from eztinker.service.execution.operations import Operations
from eztinker.service.validation import MAX_SEQ_ID
from eztinker.types import Record

SEQ_IDS_PER_CLONE = 1_000_000_000
"""A client that was copied into another process numbers its samples from its own multiple of this."""
MAX_CLONE = MAX_SEQ_ID // SEQ_IDS_PER_CLONE - 1
"""The last one that has all its numbers."""
MAX_REMEMBERED = 1 << 16
"""Fetched samples of one sampling session until results are dropped again; what is beyond stays a little longer."""
MAX_COMPLETIONS = 4096
"""In one answer; the client asks again for the rest."""


class Announcement(Record):
    completions: list[SettledOperation]
    cursor: int
    """Where the next poll goes on. It outlives this process, as outcomes are numbered in the log."""


class Completions:
    def __init__(self, store: Store, operations_: Operations, clock: Clock) -> None:
        self._store = store
        self._operations = operations_
        self._clock = clock
        self._fetched: defaultdict[str, set[str]] = defaultdict(set)
        """Samples by sampling session whose results can be dropped."""

    async def announced(
        self,
        owner: str,
        sampling_session_id: str,
        clone: int,
        *,
        cursor: int,
        fetched: Collection[str],
        hold_seconds: float,
    ) -> Announcement:
        """The samples of one client that were over after `cursor`: as soon as there are any, or none after the hold.

        Args:
            clone: which copy of the client asks; its original is 0.
            fetched: ids of samples whose results the client has; the next `drop_fetched` drops them.

        Raises:
            NotFound: the owner has no such sampling session.
        """
        for field, value, largest in (("cloned_sampler_id", clone, MAX_CLONE), ("prev_cursor", cursor, MAX_SEQ_ID)):
            if not 0 <= value <= largest:
                raise InvalidInput(f"{field} must be between 0 and {largest}, got {value}", field=field)
        row = await self._store.read(lambda db: sessions.sampling_session(db, sampling_session_id))
        owned(row, owner, f"sampling session {sampling_session_id!r}")
        if fetched and len(self._fetched[sampling_session_id]) < MAX_REMEMBERED:
            self._fetched[sampling_session_id].update(fetched)
        deadline = self._clock.monotonic() + hold_seconds
        while True:
            # Taken before the log is read, so that an outcome stored in between is not missed.
            next_outcome = self._operations.next_outcome(sampling_session_id)
            found = await self._after(sampling_session_id, clone, cursor)
            seconds_left = deadline - self._clock.monotonic()
            if found or seconds_left <= 0:
                return Announcement(completions=found, cursor=found[-1].completion if found else cursor)
            try:
                await asyncio.wait_for(next_outcome.wait(), seconds_left)
            except TimeoutError:
                return Announcement(completions=[], cursor=cursor)

    async def drop_fetched(self) -> None:
        """Drop the results that clients have. Done now and then: nobody waits for it, and polls wait for no commit."""
        fetched, self._fetched = self._fetched, defaultdict(set)
        for lane, op_ids in fetched.items():
            await self._store.write(partial(operations.drop_fetched, lane=lane, op_ids=op_ids))

    async def _after(self, lane: str, clone: int, cursor: int) -> list[SettledOperation]:
        seq_ids = range(clone * SEQ_IDS_PER_CLONE, (clone + 1) * SEQ_IDS_PER_CLONE)
        return await self._store.read(
            lambda db: operations.completions(db, lane, after=cursor, seq_ids=seq_ids, limit=MAX_COMPLETIONS)
        )
