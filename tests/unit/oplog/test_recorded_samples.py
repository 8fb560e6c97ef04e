"""Recorded samples in the log: whose they are, and which are forgotten first."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection

from eztinker.oplog import recorded_samples, sessions
from eztinker.oplog.rows import RecordedSample, RecordedSequence, SessionStatus
from eztinker.oplog.store import Store
from tests.unit.oplog.log_entries import NOW, session


def record(db: Connection, op_id: str, num_sequences: int = 1, **fields: Any) -> None:
    given = {
        "owner": "ann",
        "session_id": "s",
        "num_bytes": 10,
        "used_at": NOW,
        "checksum": 1,
        "prompt": b"abcd",
    } | fields
    rows = [
        RecordedSequence(op_id=op_id, place=place, tokens=b"t%d" % place, logprobs=b"l", checksum=2)
        for place in range(num_sequences)
    ]
    recorded_samples.add(db, RecordedSample(op_id=op_id, **given), rows)


def kept(db: Connection, *op_ids: str) -> list[str]:
    return [sample.op_id for sample in recorded_samples.samples(db, "ann", "s", op_ids)]


def write(store: Store, change: Any) -> Any:
    def with_sessions(db: Connection) -> Any:
        for name in ("s", "t"):
            sessions.add_session(db, session(name))
        return change(db)

    return asyncio.run(store.write(with_sessions))


def test_a_sample_is_found_by_its_owner_within_its_session_alone(store: Store):
    def look(db: Connection) -> list[Any]:
        record(db, "own")
        record(db, "foreign", owner="eve")
        record(db, "elsewhere", session_id="t")
        named = ["own", "foreign", "elsewhere", "unknown"]
        return [kept(db, *named), recorded_samples.num_prompt_bytes(db, "ann", "s", named)]

    assert write(store, look) == [["own"], 4]


def test_more_samples_than_one_statement_may_name_are_found(store: Store):
    names = [f"op-{number}" for number in range(1_203)]

    def look(db: Connection) -> list[Any]:
        for name in names:
            record(db, name)
        return [kept(db, *names), recorded_samples.num_prompt_bytes(db, "ann", "s", iter(names))]

    found, num_bytes = write(store, look)
    assert sorted(found) == sorted(names)
    assert num_bytes == 4 * len(names)


def test_sequences_come_in_the_order_in_which_they_are_named(store: Store):
    def look(db: Connection) -> list[tuple[str, int, bytes]]:
        record(db, "two", num_sequences=2)
        record(db, "one")
        named = [("two", 1), ("one", 0), ("two", 2), ("three", 0), ("two", 0)]
        return [(row.op_id, row.place, row.tokens) for row in recorded_samples.sequences(db, named)]

    assert write(store, look) == [("two", 1, b"t1"), ("one", 0, b"t0"), ("two", 0, b"t0")]


def test_what_was_not_used_for_long_goes_and_so_does_what_a_session_leaves(store: Store):
    def forget(db: Connection) -> list[Any]:
        record(db, "old", used_at=NOW - timedelta(days=2))
        record(db, "renewed", used_at=NOW - timedelta(days=2))
        record(db, "new")
        record(db, "over", session_id="t")
        recorded_samples.renew(db, ["renewed"], NOW)
        sessions.end_session(db, "t", SessionStatus.FINISHED, reason=None, detail=None, now=NOW)
        recorded_samples.forget_unused(db, NOW - timedelta(days=1))
        over = [sample.op_id for sample in recorded_samples.samples(db, "ann", "t", ["over"])]
        left = [(row.op_id) for row in recorded_samples.sequences(db, [("old", 0), ("new", 0), ("over", 0)])]
        return [sorted(kept(db, "old", "renewed", "new")), over, left]

    assert write(store, forget) == [["new", "renewed"], [], ["new"]]


@pytest.mark.parametrize(("max_bytes", "left"), [(30, ["2", "3", "4"]), (29, ["3", "4"]), (9, []), (50, list("01234"))])
def test_above_the_limit_those_unused_for_longest_go_of_that_owner_alone(store: Store, max_bytes: int, left: list[str]):
    def forget(db: Connection) -> list[Any]:
        for number in range(5):
            record(db, str(number), used_at=NOW + timedelta(seconds=number))
        record(db, "bobs", owner="bob", num_bytes=min(max_bytes, 9))
        lost = recorded_samples.forget_surplus(db, max_bytes)
        bobs = recorded_samples.samples(db, "bob", "s", ["bobs"])
        return [lost, kept(db, *map(str, range(5))), len(bobs)]

    lost = [] if len(left) == 5 else ["ann"]
    assert write(store, forget) == [lost, left, 1]
