"""The audit log: changes and reads of an owner's objects, with time and author. Each writes its own line."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from eztinker.oplog import audit
from eztinker.oplog.rows import AuditEntry
from eztinker.oplog.store import Store
from eztinker.service.clock import Clock

RETENTION = timedelta(days=400)


class AuditLog:
    """Reads the audit log, and drops old lines."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def of_day(self, owner: str, day: date | None, *, resource: str | None) -> list[AuditEntry]:
        """Read a day of the log, midnight to midnight UTC, oldest first.

        Args:
            day: None for today.
            resource: what the events are about, such as `checkpoint`; None for everything.
        """
        asked = day or self._clock.now().date()
        start = datetime.combine(asked, time(), UTC)
        # the calendar ends with the last day, so its midnight has no name
        end = start + timedelta(days=1) if asked < date.max else datetime.max.replace(tzinfo=UTC)
        return await self._store.read(lambda db: audit.between(db, owner, start, end, resource=resource))

    async def expire(self) -> None:
        """Drop lines that are too old."""
        oldest = self._clock.now() - RETENTION
        await self._store.write(lambda db: audit.forget(db, oldest))
