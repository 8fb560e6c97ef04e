"""The operation log without threads: the real SQL on a database in memory, whose commits take time and may fail."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError

from eztinker.oplog.database import open_database
from eztinker.oplog.store import MAX_GROUP, Change, Database, Store
from eztinker.oplog.upgrade import create_or_upgrade

T = TypeVar("T")


class Disk:
    """The database of one simulation. One for the process is emptied each time, which is quicker than making one."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.engine, empty = _empty_database()
        self.raw: sqlite3.Connection = self.engine.raw_connection().driver_connection  # pyright: ignore
        self.raw.deserialize(empty)
        self.raw.execute("PRAGMA foreign_keys=ON")
        self.refusal_rate = 0.0
        self.num_refused = 0
        """Changes that were not made since the disk refused their commit."""
        self.on_commit: Callable[[], None] = lambda: None
        """Called when a group has become durable and nobody knows yet."""

    def commit(self, changes: list[Change]) -> list[Future[Any]]:
        _refusing[0] = self._random.random() < self.refusal_rate
        outcomes = Database(self.engine).commit(changes)
        if _refusing[0]:
            self.num_refused += len(changes)
        else:
            self.on_commit()
        return outcomes

    def commit_seconds(self) -> float:
        return self._random.choice((0.0005, 0.002, 0.01, 0.2))


class SimulatedStore(Store):
    """The log as one server process sees it. What waits for a commit is gone with the process."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._database = Database(disk.engine)
        self._queue: list[tuple[Change, asyncio.Future[Any]]] = []
        self._is_busy = False

    async def write(self, change: Callable[[Connection], T]) -> T:
        done = asyncio.get_running_loop().create_future()
        self._queue.append((change, done))
        self._go_on()
        return await done

    async def read(self, query: Callable[[Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(None, self._database.read, query)

    def close(self) -> None:
        if self._queue:
            self._disk.commit([change for change, _ in self._queue])

    def _go_on(self) -> None:
        if self._queue and not self._is_busy:
            self._is_busy = True
            asyncio.get_running_loop().call_later(self._disk.commit_seconds(), self._commit)

    def _commit(self) -> None:
        group, self._queue = self._queue[:MAX_GROUP], self._queue[MAX_GROUP:]
        outcomes = self._disk.commit([change for change, _ in group])
        waiting = [done for _, done in group]
        asyncio.get_running_loop().call_later(self._disk.commit_seconds(), self._tell, waiting, outcomes)

    def _tell(self, waiting: list[asyncio.Future[Any]], outcomes: list[Future[Any]]) -> None:
        for done, outcome in zip(waiting, outcomes, strict=True):
            if done.done():
                continue  # the caller has gone; the change stands
            if (error := outcome.exception()) is not None:
                done.set_exception(error)
            else:
                done.set_result(outcome.result())
        self._is_busy = False
        self._go_on()


_refusing = [False]
"""Whether the commit in hand is to be refused."""


@cache
def _empty_database() -> tuple[Engine, bytes]:
    engine = open_database(Path(":memory:"))
    create_or_upgrade(engine, Path(":memory:"))

    @event.listens_for(engine, "commit")
    def commit(_: Connection) -> None:
        if _refusing[0]:
            raise OperationalError("COMMIT", None, sqlite3.OperationalError("database or disk is full"))

    raw: sqlite3.Connection = engine.raw_connection().driver_connection  # pyright: ignore
    return engine, raw.serialize()
