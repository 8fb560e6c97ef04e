"""The database file of the operation log: one writer with group commit, readers beside it.

SQLite in WAL mode with synchronous=FULL. A change is durable when `write` returns: what is acknowledged to a client
after it survives a power cut.
"""

from __future__ import annotations

import asyncio
import errno
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, insert, inspect, select
from sqlalchemy.exc import OperationalError

from eztinker.errors import ConfigError, LogFull, LogUnwritable
from eztinker.failpoints import reach
from eztinker.oplog.schema import SCHEMA_VERSION, metadata, schema_version

T = TypeVar("T")

MAX_GROUP = 256
"""Changes in one transaction; they share one fsync."""
READER_THREADS = 4


class Store:
    """Runs changes and queries, each a function of a connection, off the event loop.

    A change runs in its own savepoint: if it raises, it alone is undone and its caller gets the error.
    """

    def __init__(self, path: Path) -> None:
        """Open the database at `path`, or make it.

        Raises:
            ConfigError: another version of the program has written it.
            LogFull, LogUnwritable: the disk is full or broken.
        """
        self._engine = _open(path)
        try:
            _prepare_schema(self._engine)
        except OperationalError as error:
            raise _refusal(error) from error
        self._readers = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="oplog-reader")
        self._changes: queue.SimpleQueue[_Change | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_groups, name="oplog-writer", daemon=True)
        self._writer.start()

    async def write(self, change: Callable[[Connection], T]) -> T:
        """What `change` returns, once it is committed to disk.

        Raises:
            LogFull, LogUnwritable: the disk is full or broken; nothing was changed.
        """
        done: Future[Any] = Future()
        self._changes.put(_Change(change, done))
        return await asyncio.wrap_future(done)

    async def read(self, query: Callable[[Connection], T]) -> T:
        """What `query` returns; it sees every change written before.

        Raises:
            LogUnwritable: the disk cannot be read.
        """
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, query)

    def close(self) -> None:
        """Commit what is waiting and let the file go."""
        self._changes.put(None)
        self._writer.join()
        self._readers.shutdown()
        self._engine.dispose()

    def _read(self, query: Callable[[Connection], T]) -> T:
        try:
            with self._engine.connect() as connection:
                return query(connection)
        except OperationalError as error:
            raise _refusal(error) from error

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
    reason = None
    try:
        with connection.begin_nested():
            try:
                return change.run(connection), None
            except Exception as error:
                reason = error
                raise
    except Exception as error:
        reason = reason or error
    if not _is_in_transaction(connection):
        raise reason  # a full or broken disk may undo the whole group, and then what comes next must not pass for it
    return None, reason


def _is_in_transaction(connection: Connection) -> bool:
    """Whether SQLite has one open."""
    driver: Any = connection.connection.dbapi_connection
    return driver.in_transaction


def _settle(change: _Change, *, result: Any = None, error: Exception | None = None) -> None:
    if not change.done.set_running_or_notify_cancel():
        return  # the caller has gone; the change stands
    if isinstance(error, (OperationalError, OSError)):
        error = _refusal(error)
    if error is not None:
        change.done.set_exception(error)
    else:
        change.done.set_result(result)


def _refusal(error: OperationalError | OSError) -> LogUnwritable:
    """What the disk says, in words for clients, which are going to ask again."""
    reason = error.orig if isinstance(error, OperationalError) else error.strerror
    is_full = error.errno == errno.ENOSPC if isinstance(error, OSError) else "full" in str(reason)
    sentence = f"The server cannot use its operation log at present ({reason})"
    if is_full:
        return LogFull(f"{sentence}; free some space on its disk")
    return LogUnwritable(f"{sentence}; check its disk")


def _open(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver must not begin transactions behind our back
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def _prepare_schema(engine: Engine) -> None:
    with engine.begin() as connection:
        if not inspect(connection).has_table(schema_version.name):
            metadata.create_all(connection)
            connection.execute(insert(schema_version).values(version=SCHEMA_VERSION))
            return
        version = connection.execute(select(schema_version.c.version)).scalar_one()
    if version < SCHEMA_VERSION:
        raise ConfigError(
            f"The operation log has schema version {version}, from before the first release, and this program needs "
            f"{SCHEMA_VERSION}; use another data directory"
        )
    if version > SCHEMA_VERSION:
        raise ConfigError(
            f"The operation log has schema version {version}, and this program knows versions up to {SCHEMA_VERSION}; "
            "upgrade eztinker, or use another data directory"
        )
