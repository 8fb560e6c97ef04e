"""Sessions to look through: a search with filters, and the projects they are sorted into."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import islice
from typing import Any

import orjson
from sqlalchemy import Connection

from eztinker.errors import InvalidInput
from eztinker.oplog import audit, session_search, sessions
from eztinker.oplog.rows import DEFAULT_PROJECT, AuditEntry, Session
from eztinker.oplog.session_search import StatusFilter, Stored
from eztinker.oplog.store import Store
from eztinker.service.accounts.access import owned
from eztinker.service.clock import Clock
from eztinker.service.validation import check_text
from eztinker.types import Record


class SessionQuery(Record):
    """Filters of a search, all of which a session must pass."""

    session_id: str | None
    display_name: str | None
    """Words that must all be in the name, in any case. Together with `session_id`, one of the two is enough."""
    user_metadata: dict[str, str]
    """Pairs of metadata that must all be there."""
    project_ids: list[str] | None
    statuses: list[StatusFilter] | None
    """Projects, any of which will do; an empty list lets nothing pass."""
    limit: int
    after: tuple[datetime, str] | None
    """The last session of the page before, by creation time and id."""


class FoundSession(Record):
    session: Session
    project_id: str
    stored: Stored


class SessionSearch:
    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def find(self, owner: str, query: SessionQuery) -> tuple[list[FoundSession], bool]:
        """A page of the owner's sessions that match, newest first, and whether more follow."""
        now = self._clock.now()

        def search(db: Connection) -> tuple[list[FoundSession], bool]:
            walked = session_search.walk(
                db, owner, project_ids=query.project_ids, statuses=query.statuses, after=query.after
            )
            found = list(islice((row for row in walked if _matches(row, query)), query.limit + 1))
            page = found[: query.limit]
            stored = session_search.stored_by_session(db, [row.session_id for row in page], now)
            return [_found(row, stored.get(row.session_id, Stored())) for row in page], len(found) > query.limit

        return await self._store.read(search)

    async def assign_project(self, owner: str, session_id: str, project_id: str) -> None:
        """Move a session, and all that hangs on it, into a project."""
        check_text(project_id, field="project_id")
        if not project_id:
            raise InvalidInput("project_id must not be empty: a session cannot leave its project", field="project_id")
        row = await self._store.read(lambda db: sessions.session(db, session_id))
        owned(row, owner, f"session {session_id!r}")
        entry = AuditEntry(
            owner=owner,
            event="project_session_assign",
            details={"by": owner, "session_id": session_id, "project_id": project_id},
            created_at=self._clock.now(),
        )

        def assign(db: Connection) -> None:
            session_search.assign_project(db, session_id, project_id)
            audit.add(db, entry)

        await self._store.write(assign)


def as_text(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Clients may store any JSON as metadata but read back strings only."""
    return {name: value if isinstance(value, str) else orjson.dumps(value).decode() for name, value in metadata.items()}


def _found(session: Session, stored: Stored) -> FoundSession:
    return FoundSession(session=session, project_id=session.project_id or DEFAULT_PROJECT, stored=stored)


def _matches(session: Session, query: SessionQuery) -> bool:
    if not query.user_metadata.items() <= as_text(session.user_metadata).items():
        return False
    if query.session_id is None and query.display_name is None:
        return True
    is_named = query.display_name is not None and _has_words(session.display_name, query.display_name)
    return is_named or session.session_id == query.session_id


def _has_words(name: str | None, words: str) -> bool:
    return name is not None and all(word in name.casefold() for word in words.casefold().split())
