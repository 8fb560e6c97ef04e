"""The writer of the log on a real database file: what it acknowledges is on disk, and nothing else is."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from eztinker.errors import LogFull, LogReplaced
from eztinker.oplog import operations
from eztinker.oplog.rows import OperationRow
from eztinker.oplog.store import Store
from tests.unit.oplog.log_entries import operation


def test_an_acknowledged_operation_is_on_disk_when_the_writer_returns(store: Store, path: Path):
    asyncio.run(store.write(lambda db: operations.append(db, operation("op-1", seq_id=3))))
    with sqlite3.connect(path) as other:  # a second connection sees what is committed, and nothing else
        assert other.execute("SELECT op_id, seq_id, status FROM operations").fetchall() == [("op-1", 3, "pending")]
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()


@pytest.mark.parametrize("fate", ["moved", "deleted", "replaced"])
def test_nothing_is_acknowledged_once_the_file_is_no_longer_in_its_place(store: Store, path: Path, fate: str):
    """The next server would find another log there, and none of it."""
    asyncio.run(store.write(lambda db: operations.append(db, operation("before"))))
    aside = path.rename(path.with_name("aside"))
    if fate == "replaced":
        path.write_bytes(aside.read_bytes())
    for op_id in ("during", "later"):
        with pytest.raises(LogReplaced, match="moved, deleted or replaced"):
            asyncio.run(store.write(lambda db, op_id=op_id: operations.append(db, operation(op_id))))
    if fate == "deleted":
        aside.unlink()
        return
    aside.replace(path)
    asyncio.run(store.write(lambda db: operations.append(db, operation("after"))))


def test_many_writers_share_commits_and_each_gets_its_own_answer(store: Store):
    async def write_all() -> list[OperationRow]:
        changes = [operation(f"op-{n}", seq_id=n) for n in range(300)]
        return await asyncio.gather(*(store.write(lambda db, row=row: operations.append(db, row)) for row in changes))

    assert [row.op_id for row in asyncio.run(write_all())] == [f"op-{n}" for n in range(300)]


def test_a_change_that_fails_undoes_itself_alone(store: Store):
    def broken(db: Connection) -> None:
        operations.append(db, operation("half"))
        raise RuntimeError("stop")

    async def write_both() -> tuple[Any, ...]:
        good = store.write(lambda db: operations.append(db, operation("whole")))
        return await asyncio.gather(store.write(broken), good, return_exceptions=True)

    failed, _ = asyncio.run(write_both())
    assert isinstance(failed, RuntimeError)
    kept = asyncio.run(store.read(lambda db: (operations.get(db, "half"), operations.get(db, "whole"))))
    assert kept[0] is None
    assert kept[1] == operation("whole")


_FULL = sqlite3.OperationalError("database or disk is full")


@pytest.mark.parametrize("error", [OperationalError("INSERT", {}, _FULL), _FULL], ids=["usual", "prepared"])
def test_a_disk_that_undoes_a_whole_group_lets_no_part_of_it_stand(store: Store, error: Exception):
    """SQLite may do so; what came next in the group then used to be stored although its caller was refused."""
    is_gathered = threading.Event()

    def undone(db: Connection) -> None:
        db.exec_driver_sql("ROLLBACK")
        raise error

    async def write_group() -> list[Any]:
        holding = store.write(lambda db: is_gathered.wait(5))
        group = [
            store.write(lambda db: operations.append(db, operation("before"))),
            store.write(undone),
            store.write(lambda db: operations.append(db, operation("behind"))),
        ]
        waiting = [asyncio.ensure_future(each) for each in (holding, *group)]
        await asyncio.sleep(0.1)
        is_gathered.set()
        return (await asyncio.gather(*waiting, return_exceptions=True))[1:]

    refused = asyncio.run(write_group())
    assert [type(error) for error in refused] == [LogFull] * 3
    assert "database or disk is full" in refused[0].message
    kept = asyncio.run(store.read(lambda db: (operations.get(db, "before"), operations.get(db, "behind"))))
    assert kept == (None, None)
    asyncio.run(store.write(lambda db: operations.append(db, operation("later"))))


@pytest.mark.parametrize("is_loop_closed", [False, True])
def test_a_caller_that_has_gone_leaves_its_change_and_the_writer(store: Store, is_loop_closed: bool):
    may_go_on = threading.Event()

    def held(db: Connection) -> None:
        may_go_on.wait(5)
        operations.append(db, operation("left"))

    async def give_up() -> None:
        writing = asyncio.ensure_future(store.write(held))
        await asyncio.sleep(0.05)
        writing.cancel()
        if not is_loop_closed:
            may_go_on.set()
            await store.write(lambda db: operations.append(db, operation("in the same loop")))

    asyncio.run(give_up())
    may_go_on.set()
    asyncio.run(asyncio.wait_for(store.write(lambda db: operations.append(db, operation("later"))), 5))
    assert asyncio.run(store.read(lambda db: operations.get(db, "left"))) == operation("left")
