"""The usage ledger: one row per hour, run and kind, which adds up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec
import pytest
from sqlalchemy import Connection

from eztinker.oplog import usage
from eztinker.oplog.rows import Usage, UsageKind
from eztinker.oplog.store import Store
from tests.unit.oplog.log_entries import NOW

HOUR = NOW.replace(minute=0, second=0)
USED = Usage(owner="ann", hour=HOUR, session_id="s", model_id="m", base_model="tiny", kind=UsageKind.TRAINING, amount=3)


def written(store: Store, change: Callable[[Connection], object]) -> None:
    asyncio.run(store.write(change))


def found(store: Store, owner: str = "ann", start: datetime = HOUR, hours: int = 1) -> list[Usage]:
    return asyncio.run(store.read(lambda db: usage.between(db, owner, start, start + timedelta(hours=hours))))


def test_uses_of_one_kind_by_one_run_within_an_hour_are_one_row(store: Store):
    written(store, lambda db: usage.add(db, USED, msgspec.structs.replace(USED, amount=4)))
    written(store, lambda db: usage.add(db, msgspec.structs.replace(USED, amount=10**15)))
    assert found(store) == [msgspec.structs.replace(USED, amount=10**15 + 7)]


@pytest.mark.parametrize(
    "change",
    [{"hour": HOUR + timedelta(hours=1)}, {"session_id": "t"}, {"model_id": None}, {"base_model": "b"}]
    + [{"kind": kind} for kind in UsageKind if kind is not UsageKind.TRAINING],
    ids=str,
)
def test_uses_that_differ_in_anything_else_are_rows_of_their_own_and_add_up_there(store: Store, change: dict):
    other = msgspec.structs.replace(USED, amount=1, **change)
    written(store, lambda db: usage.add(db, USED, other, other))
    rows = found(store, hours=2)
    assert sorted(row.amount for row in rows) == [2, 3]
    assert msgspec.structs.replace(other, amount=2) in rows


def test_a_stretch_of_hours_holds_its_first_and_not_its_last_and_no_one_elses(store: Store):
    hours = [msgspec.structs.replace(USED, hour=HOUR + timedelta(hours=number), amount=number) for number in range(4)]
    written(store, lambda db: usage.add(db, *hours, msgspec.structs.replace(USED, owner="bob")))
    assert [row.amount for row in found(store, start=HOUR + timedelta(hours=1), hours=2)] == [1, 2]
    written(store, lambda db: usage.forget(db, HOUR + timedelta(hours=2)))
    assert [row.amount for row in found(store, hours=9)] == [2, 3]
    assert found(store, "bob") == []
