"""Timelines of sessions: when each request came and when it was done."""

from __future__ import annotations

import asyncio

from eztinker.oplog import session_search, sessions
from eztinker.oplog.session_search import TimedOperation
from eztinker.oplog.store import Store
from eztinker.protocol.traces import Slice, encode_trace
from eztinker.service.accounts.access import owned


class Traces:
    """Exports timelines of sessions."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def check(self, owner: str, session_id: str) -> None:
        """Raises NotFound: the owner has no such session."""
        owned(await self._store.read(lambda db: sessions.session(db, session_id)), owner, f"session {session_id!r}")

    async def export(self, session_id: str) -> bytes:
        """Encode all requests of the session so far as a Perfetto trace."""
        timeline = await self._store.read(lambda db: session_search.timeline(db, session_id))
        return await asyncio.to_thread(lambda: encode_trace(f"session {session_id}", map(_as_slice, timeline)))


def _as_slice(operation: TimedOperation) -> Slice:
    details: dict[str, str | int] = {"status": operation.status.value}
    if operation.seq_id is not None:
        details["seq_id"] = operation.seq_id
    if operation.error_code is not None:
        details["error"] = operation.error_code
    return Slice(
        track=operation.lane.partition(":")[2],
        name=operation.kind,
        start=operation.created_at,
        end=operation.finished_at,
        details=details,
    )
