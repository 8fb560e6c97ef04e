"""The operation log as its users see it: one writer with group commit, readers beside it.

A change is durable when `write` returns: what is acknowledged to a client after it survives a power cut.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from eztinker.errors import LogUnwritable
from eztinker.failpoints import reach
from eztinker.oplog.database import open_database
from eztinker.oplog.upgrade import bring_up_to_date

T = TypeVar("T")

MAX_GROUP = 256
"""Changes in one transaction; they share one fsync."""
READER_THREADS = 4


class Store:
    """Runs changes and queries, each a function of a connection, off the event loop.

    A change runs in its own savepoint: if it raises, it alone is undone and its caller gets the error.
    """

    def __init__(self, path: Path) -> None:
        """Open the database at `path`, or make it; one of an older program is brought up to date.

        Raises:
            ConfigError: it cannot be used, for example because a newer program has written it.
        """
        self._engine = open_database(path)
        try:
            bring_up_to_date(self._engine, path)
        except BaseException:
            self._engine.dispose()
            raise
        self._readers = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="oplog-reader")
        self._changes: queue.SimpleQueue[_Change | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_groups, name="oplog-writer", daemon=True)
        self._writer.start()

    async def write(self, change: Callable[[Connection], T]) -> T:
        """What `change` returns, once it is committed to disk.

        Raises:
            LogUnwritable: the disk is full or broken; nothing was changed.
        """
        done: Future[Any] = Future()
        self._changes.put(_Change(change, done))
        return await asyncio.wrap_future(done)

    async def read(self, query: Callable[[Connection], T]) -> T:
        """What `query` returns; it sees every change written before."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, query)

    def close(self) -> None:
        """Commit what is waiting and let the file go."""
        self._changes.put(None)
        self._writer.join()
        self._readers.shutdown()
        self._engine.dispose()

    def _read(self, query: Callable[[Connection], T]) -> T:
        with self._engine.connect() as connection:
            return query(connection)

    def _write_groups(self) -> None:
        while (first := self._changes.get()) is not None:
            group, is_last = self._gather(first)
            self._commit(group)
            if is_last:
                return

    def _gather(self, first: _Change) -> tuple[list[_Change], bool]:
        """Everything that waits by now, to share one commit; and whether the store is closing."""
        group = [first]
        while len(group) < MAX_GROUP:
            try:
                following = self._changes.get_nowait()
            except queue.Empty:
                break
            if following is None:
                return group, True
            group.append(following)
        return group, False

    def _commit(self, group: list[_Change]) -> None:
        try:
            with self._engine.begin() as connection:
                outcomes = [_attempt(connection, change) for change in group]
                reach("log.commit")
        except Exception as error:
            # Disk full or an I/O error at commit: nothing of the group is durable, so nobody may be told otherwise.
            for change in group:
                _settle(change, error=error)
            return
        reach("log.committed")
        for change, (result, error) in zip(group, outcomes, strict=True):
            _settle(change, result=result, error=error)


class _Change(NamedTuple):
    run: Callable[[Connection], Any]
    done: Future[Any]


def _attempt(connection: Connection, change: _Change) -> tuple[Any, Exception | None]:
    try:
        with connection.begin_nested():
            return change.run(connection), None
    except Exception as error:
        return None, error


def _settle(change: _Change, *, result: Any = None, error: Exception | None = None) -> None:
    if not change.done.set_running_or_notify_cancel():
        return  # the caller has gone; the change stands
    if isinstance(error, (OperationalError, OSError)):
        reason = error.orig if isinstance(error, OperationalError) else error.strerror
        error = LogUnwritable(f"The server cannot write its operation log ({reason}); free some space on its disk")
    if error is not None:
        change.done.set_exception(error)
    else:
        change.done.set_result(result)
