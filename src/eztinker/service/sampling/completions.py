"""Announcements of finished samples: one poll for all samples of a sampling client, instead of one for each."""

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
from eztinker.service.execution.futures import Futures
from eztinker.service.validation import MAX_SEQ_ID
from eztinker.types import Record

SEQ_IDS_PER_CLONE = 1_000_000_000
"""Numbers for the samples of one copy of a client; copies in other processes begin at other multiples of this."""
MAX_CLONE = MAX_SEQ_ID // SEQ_IDS_PER_CLONE - 1
"""The last copy of a client that has all its numbers."""
MAX_REMEMBERED = 1 << 16
"""Most fetched samples of a sampling session that are remembered for the next drop; others are kept a little longer."""
MAX_COMPLETIONS = 4096
"""Most samples announced in one answer; the client asks again for the rest."""


class Announcement(Record):
    """Finished samples of one client, and the cursor behind them."""

    completions: list[SettledOperation]
    cursor: int
    """Position of the next poll, which holds across restarts because the log numbers outcomes."""


class Completions:
    """Holds polls for finished samples, and drops results that clients have fetched."""

    def __init__(self, store: Store, futures: Futures, clock: Clock) -> None:
        self._store = store
        self._futures = futures
        self._clock = clock
        self._fetched: defaultdict[str, set[str]] = defaultdict(set)
        """Samples whose results can be dropped, by sampling session."""

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
        """Get the samples of one client that ended after `cursor`: as soon as there are any, or none after the hold.

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
            next_outcome = self._futures.next_outcome(sampling_session_id)
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
