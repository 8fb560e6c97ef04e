"""The store behind the operation log: one writer thread with group commit, and reader threads beside it.

A change is durable when `write` returns, so whatever a client is told afterwards survives a power cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from eztinker.errors import InvalidInput, LogFull, LogReplaced, LogUnwritable
from eztinker.failpoints import reach
from eztinker.oplog.database import open_database, reflush_wal
from eztinker.oplog.upgrade import create_or_upgrade

log = logging.getLogger(__name__)

T = TypeVar("T")
_DRIVER_ERRORS = (OperationalError, sqlite3.OperationalError)
"""Errors of the driver, wrapped by SQLAlchemy or, from prepared statements, bare."""

MAX_GROUP = 256
"""Most changes in one transaction, which share one fsync."""
READER_THREADS = 4


Change = Callable[[Connection], Any]


class Database:
    """Runs changes and queries in the calling thread."""

    def __init__(self, engine: Engine, path: Path | None = None) -> None:
        """Use the database of `engine`.

        Args:
            path: its file, if it is one that others could move; checked after each commit.
        """
        self._engine = engine
        self._path = path
        self._identity = _identity(path)

    def commit(self, changes: Sequence[Change]) -> list[Future[Any]]:
        """Make these changes durable in one transaction; a change that raises is rolled back alone.

        Returns:
            A future for each change, which is done: it has the result, or the error that the change raised.
        """
        attempt = _attempt if len(changes) > 1 else _attempt_alone
        try:
            with self._engine.begin() as connection:
                outcomes = [attempt(connection, change) for change in changes]
                reach("log.commit")
            self._require_in_place()
        except Exception as error:
            # Disk full or an I/O error at commit: none of the group is durable, so every caller must get the error.
            return [_failed(_translated(error))] * len(changes)
        reach("log.committed")
        return outcomes

    def _require_in_place(self) -> None:
        """Require that the path still names the file that was just written, so that the next server will find it.

        Raises:
            LogReplaced: the path names another file or none.
        """
        if _identity(self._path) != self._identity:
            raise LogReplaced(
                "The server's operation log was moved, deleted or replaced while the server ran; its operator must put "
                "the data directory back as it was and start the server again"
            )

    def read(self, query: Callable[[Connection], T]) -> T:
        """The result of `query`.

        Raises:
            LogUnwritable: the disk cannot be read.
            InvalidInput: the query has a number that does not fit a column.
        """
        try:
            with self._engine.connect() as connection:
                return query(connection)
        except (*_DRIVER_ERRORS, OverflowError) as error:
            raise _translated(error) from error

    def close(self) -> None:
        self._engine.dispose()


class Store:
    """Runs changes and queries, each a function of a connection, off the event loop.

    A change that raises is rolled back alone, and its caller gets the error.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the database at `path`, and upgrade one of an older program.

        Raises:
            ConfigError: the file cannot be used, for example because a newer program has written it.
            LogFull, LogUnwritable: the disk is full or broken.
        """
        engine = open_database(path)
        try:
            reflush_wal(path)
            create_or_upgrade(engine, path)
        except (OperationalError, OSError) as error:
            engine.dispose()
            raise _disk_error(error) from error
        except BaseException:
            engine.dispose()
            raise
        self._database = Database(engine, path)
        self._readers = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="oplog-reader")
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._is_disk_failing = False
        """Whether the last group could not be written."""
        self._writer = threading.Thread(target=self._write_groups, name="oplog-writer", daemon=True)
        self._writer.start()

    async def write(self, change: Callable[[Connection], T]) -> T:
        """The result of `change`, once it is committed to disk.

        Raises:
            LogFull, LogUnwritable: the disk is full or broken; nothing was changed.
        """
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.put(_Waiting(change, done))
        return await done

    async def read(self, query: Callable[[Connection], T]) -> T:
        """The result of `query`, which sees every change written before.

        Raises:
            LogUnwritable: the disk cannot be read.
        """
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._database.read, query)

    def close(self) -> None:
        """Commit the waiting changes and close the database."""
        self._waiting.put(None)
        self._writer.join()
        self._readers.shutdown()
        self._database.close()

    def _write_groups(self) -> None:
        while (first := self._waiting.get()) is not None:
            group, is_last = self._gather(first)
            outcomes = self._database.commit([waiting.change for waiting in group])
            self._log_disk_state(outcomes)
            for waiting, outcome in zip(group, outcomes, strict=True):
                with contextlib.suppress(RuntimeError):  # its loop is closed: the caller has gone
                    waiting.done.get_loop().call_soon_threadsafe(_settle, waiting.done, outcome)
            if is_last:
                return

    def _log_disk_state(self, outcomes: list[Future[Any]]) -> None:
        """Log one line when writes begin to fail and one when they succeed again; clients retry silently."""
        errors = (each.exception() for each in outcomes)
        refusal = next((error for error in errors if isinstance(error, LogUnwritable)), None)
        if refusal is not None and not self._is_disk_failing:
            log.error("%s. Requests are answered 503 until then", refusal, extra={"event": "log_refused"})
        if refusal is None and self._is_disk_failing:
            log.warning("The operation log is written again", extra={"event": "log_written_again"})
        self._is_disk_failing = refusal is not None

    def _gather(self, first: _Waiting) -> tuple[list[_Waiting], bool]:
        """The changes that wait now, to share one commit, and whether the store is closing."""
        group = [first]
        while len(group) < MAX_GROUP:
            try:
                following = self._waiting.get_nowait()
            except queue.Empty:
                break
            if following is None:
                return group, True
            group.append(following)
        return group, False


class _Waiting(NamedTuple):
    change: Change
    done: asyncio.Future[Any]


def _identity(path: Path | None) -> tuple[int, int] | None:
    """Device and inode of the file that `path` names; None if there is none."""
    if path is None:
        return None
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _attempt_alone(connection: Connection, change: Change) -> Future[Any]:
    return _done(change(connection))  # if it raises, the transaction is undone


def _attempt(connection: Connection, change: Change) -> Future[Any]:
    """Apply a change in a savepoint of its own."""
    reason = None
    try:
        with connection.begin_nested():
            try:
                return _done(change(connection))
            except Exception as error:
                reason = error
                raise
    except Exception as error:
        reason = reason or error  # the change's own error matters more than one of its rollback
    if not _is_in_transaction(connection):
        raise reason  # a full or broken disk may roll back the whole group; later changes must not be committed alone
    return _failed(_translated(reason))


def _is_in_transaction(connection: Connection) -> bool:
    """Whether SQLite has a transaction open."""
    driver: Any = connection.connection.dbapi_connection
    return driver.in_transaction


def _translated(error: Exception) -> Exception:
    """Translate errors of the disk and of too large numbers; return any other error as it is."""
    if isinstance(error, OverflowError):
        return InvalidInput("A number in the request does not fit 64 bits with a sign")
    return _disk_error(error) if isinstance(error, (*_DRIVER_ERRORS, OSError)) else error


def _done(result: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(result)
    return future


def _failed(error: Exception) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


def _settle(done: asyncio.Future[Any], outcome: Future[Any]) -> None:
    if done.done():
        return  # the caller has gone; the change stands
    if (error := outcome.exception()) is not None:
        done.set_exception(error)
    else:
        done.set_result(outcome.result())


def _disk_error(error: OperationalError | sqlite3.OperationalError | OSError) -> LogUnwritable:
    """An error for clients, which will retry, from an error of the disk."""
    if isinstance(error, OSError):
        reason, is_full = error.strerror, error.errno == errno.ENOSPC
    else:
        reason = error.orig if isinstance(error, OperationalError) else error
        is_full = "full" in str(reason)
    sentence = f"The server cannot use its operation log at present ({reason})"
    if is_full:
        return LogFull(f"{sentence}; free some space on its disk")
    return LogUnwritable(f"{sentence}; check its disk")
