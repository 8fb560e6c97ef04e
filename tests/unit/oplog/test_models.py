"""Models in the log, and the runs they belong to."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from sqlalchemy import Connection

from eztinker.oplog import models, sessions
from eztinker.oplog.rows import Model, ModelStatus
from eztinker.oplog.store import Store
from tests.unit.oplog.log_entries import model, session, with_run


def test_a_run_that_ended_keeps_its_first_reason(store: Store):
    def end_twice(db: Connection) -> Model | None:
        with_run(db)
        models.set_status(db, ["run"], ModelStatus.UNLOADED)
        models.set_status(db, ["run"], ModelStatus.LOST)
        return models.get(db, "run")

    row = asyncio.run(store.write(end_twice))
    assert row is not None
    assert row.status is ModelStatus.UNLOADED


@pytest.mark.parametrize("owners", [["ann", "bob"], ["bob", "ann"]])
def test_a_name_means_the_run_of_the_owner_who_is_asked_first(store: Store, owners: list[str]):
    def named(db: Connection) -> list[list[Model]]:
        sessions.add_session(db, session())
        for owner in ("ann", "bob"):
            models.add(db, msgspec.structs.replace(model(f"of-{owner}"), owner=owner, name="mine"))
        return [models.resolve(db, reference, owners) for reference in ("mine", "of-ann")]

    by_name, by_id = asyncio.run(store.write(named))
    assert [each.model_id for each in by_name] == [f"of-{owners[0]}"]
    assert [each.model_id for each in by_id] == ["of-ann"]
