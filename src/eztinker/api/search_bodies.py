"""JSON requests that search sessions, and their translation into queries."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta

from eztinker.protocol.json_bodies import Body
from eztinker.service.sessions.session_search import SessionQuery, StatusFilter
from eztinker.service.sessions.sessions import SessionStatus

MAX_FILTERS = 100
"""Most filters of one kind in a request; each becomes a term of the SQL query."""


class SearchOwnerBody(Body):
    type: Literal["own", "accessible", "user"] = "own"
    owner_urns: Annotated[list[str], Meta(min_length=1, max_length=10)] | None = None

    def includes(self, caller: str) -> bool:
        """Whether the search includes the caller's own sessions; sessions of other owners are never shown."""
        return self.type != "user" or caller in (self.owner_urns or ())


class StatusQueryBody(Body):
    type: Literal["active", "cancelled", "failed", "client_finished"]
    reasons: (
        Annotated[tuple[Literal["success", "errored", "interrupted"], ...], Meta(min_length=1, max_length=MAX_FILTERS)]
        | None
    ) = None

    def filter(self) -> StatusFilter | None:
        """The filter for this status; None for `cancelled` and `failed`, which no session of this server ever is."""
        match self.type:
            case "active":
                return StatusFilter(status=SessionStatus.ACTIVE)
            case "client_finished":
                return StatusFilter(status=SessionStatus.FINISHED, reasons=self.reasons)
            case _:
                return None


class SearchCursorBody(Body):
    last_created_at: Annotated[datetime, Meta(tz=True)]
    last_session_id: str


class SearchSessionsBody(Body):
    session_id: str | None = None
    project_ids: Annotated[list[str], Meta(max_length=MAX_FILTERS)] | None = None
    user_metadata: dict[str, str] | None = None
    display_name: Annotated[str, Meta(min_length=1)] | None = None
    owner: SearchOwnerBody = SearchOwnerBody()
    statuses: Annotated[list[StatusQueryBody], Meta(min_length=1, max_length=MAX_FILTERS)] | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    cursor: SearchCursorBody | None = None

    def query(self) -> SessionQuery:
        filters = None if self.statuses is None else [status.filter() for status in self.statuses]
        return SessionQuery(
            session_id=self.session_id,
            display_name=self.display_name,
            user_metadata=self.user_metadata or {},
            project_ids=self.project_ids,
            statuses=None if filters is None else [status for status in filters if status is not None],
            limit=self.limit,
            after=None if self.cursor is None else (self.cursor.last_created_at, self.cursor.last_session_id),
        )


class ProjectBody(Body):
    project_id: str
