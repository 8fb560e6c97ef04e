"""Looking through sessions: which are found, in which order, and what each has stored."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import msgspec
from sqlalchemy import Connection

from eztinker.oplog import checkpoints, models, session_search, sessions
from eztinker.oplog.rows import DEFAULT_PROJECT, Session, SessionStatus
from eztinker.oplog.session_search import StatusFilter, Stored
from eztinker.oplog.store import Store
from tests.unit.oplog.log_entries import NOW, checkpoint, model, session


def made(name: str, minute: int, **changes: object) -> Session:
    return msgspec.structs.replace(session(name), created_at=NOW + timedelta(minutes=minute), **changes)


def walked(store: Store, *made_before: Session, **filters: object) -> list[str]:
    """Ids of the sessions that pass."""

    def look(db: Connection) -> list[str]:
        for each in made_before:
            sessions.add_session(db, each)
        passing = {"project_ids": None, "statuses": None, "after": None} | filters
        return [each.session_id for each in session_search.walk(db, "local", **passing)]  # pyright: ignore

    return asyncio.run(store.write(look))


def test_an_owners_sessions_come_newest_first_and_go_on_behind_any_of_them(store: Store):
    times = [made("old", 0), made("b", 1), made("a", 1), made("new", 2), made("foreign", 3, owner="eve")]
    assert walked(store, *times) == ["new", "b", "a", "old"]
    assert walked(store, after=(NOW + timedelta(minutes=1), "b")) == ["a", "old"]
    assert walked(store, after=(NOW, "old")) == []


def test_sessions_without_a_project_are_in_the_default_one(store: Store):
    both = [made("plain", 0), made("named", 1, project_id="p")]
    assert walked(store, *both, project_ids=["p"]) == ["named"]
    assert walked(store, project_ids=[DEFAULT_PROJECT]) == ["plain"]
    assert walked(store, project_ids=[]) == []


def test_statuses_add_up_and_a_reason_narrows_the_one_it_is_given_for(store: Store):
    over = {"status": SessionStatus.FINISHED, "ended_at": NOW}
    each = [
        made("runs", 0),
        made("well", 1, end_reason="success", **over),
        made("ill", 2, end_reason="errored", **over),
    ]
    finished, active = StatusFilter(status=SessionStatus.FINISHED), StatusFilter(status=SessionStatus.ACTIVE)
    assert walked(store, *each, statuses=[finished]) == ["ill", "well"]
    failed = StatusFilter(status=SessionStatus.FINISHED, reasons=("errored",))
    assert walked(store, statuses=[failed, active]) == ["ill", "runs"]
    assert walked(store, statuses=[]) == []


def test_only_named_checkpoints_that_are_still_there_count_as_stored(store: Store):
    def fill(db: Connection) -> dict[str, Stored]:
        for name in ("s", "empty"):
            sessions.add_session(db, session(name))
        models.add(db, model("run"))
        kept = [checkpoint("one", "a"), checkpoint("two", "b", expires_at=NOW + timedelta(seconds=1))]
        gone = [checkpoint("unnamed", None), checkpoint("over", "c", expires_at=NOW), checkpoint("removed", "d")]
        for each in (*kept, *gone):
            checkpoints.add(db, each, overwrite=False)
        checkpoints.remove(db, "removed", NOW)
        return session_search.stored_by_session(db, ["s", "empty"], NOW)

    assert asyncio.run(store.write(fill)) == {"s": Stored(count=2, size_bytes=20)}
