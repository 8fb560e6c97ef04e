"""What every table's queries share: statements that go to the driver, and rows as records."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import Connection, bindparam, select, update
from sqlalchemy.exc import MultipleResultsFound

from eztinker.oplog import queries
from eztinker.oplog.rows import ModelStatus, Session
from eztinker.oplog.schema import models, sessions
from eztinker.oplog.store import Store
from tests.unit.oplog.log_entries import NOW, model, session, with_run


def test_a_prepared_statement_does_what_the_usual_way_does(store: Store):
    prepared = queries.Prepared(update(models).where(models.c.model_id == bindparam("which")))

    def change(db: Connection) -> tuple[int, int, list[tuple[object, ...]]]:
        with_run(db)
        queries.add(db, models, model("other"))
        touched = prepared.run(db, {"which": "run", "last_request_at": NOW.replace(year=2030), "status": "lost"})
        none = prepared.run(db, {"which": "unknown", "last_loss": 1.0})
        rows = db.execute(select(models.c.model_id, models.c.status, models.c.last_request_at).order_by("model_id"))
        return touched.rowcount, none.rowcount, [tuple(row) for row in rows]

    num_touched, num_of_unknown, rows = asyncio.run(store.write(change))
    assert (num_touched, num_of_unknown) == (1, 0)
    assert rows == [("other", ModelStatus.ACTIVE, NOW), ("run", ModelStatus.LOST, NOW.replace(year=2030))]


def test_one_is_the_only_row_or_none_and_never_the_first_of_several(store: Store):
    def look(db: Connection) -> tuple[Session | None, Session | None]:
        for name in ("a", "b"):
            queries.add(db, sessions, session(name))
        with pytest.raises(MultipleResultsFound):
            queries.one(db, select(sessions), Session)
        by_id = select(sessions).where(sessions.c.session_id == bindparam("id"))
        return queries.one(db, by_id, Session, {"id": "b"}), queries.one(db, by_id, Session, {"id": "c"})

    assert asyncio.run(store.write(look)) == (session("b"), None)


def test_rows_are_added_together_and_counted_without_their_page(store: Store):
    def fill(db: Connection) -> tuple[int, list[Session]]:
        queries.add_many(db, sessions, [session(str(number)) for number in range(5)])
        query = select(sessions).order_by(sessions.c.session_id)
        return queries.count(db, query), queries.many(db, query.limit(2), Session)

    assert asyncio.run(store.write(fill)) == (5, [session("0"), session("1")])
