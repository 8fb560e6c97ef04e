"""The database file of the operation log: SQLite in WAL mode, where a commit returns once it is on disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event

WAL_BYTES = 16 * 2**20
"""Size to which the write-ahead log's file is cut back after a burst of large changes was moved into the database."""

_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"journal_size_limit={WAL_BYTES}")

_CHUNK_BYTES = 2**20


def reflush_wal(path: Path) -> None:
    """Write the write-ahead log of the database at `path` once more, byte for byte, and flush it.

    A process that died between a write and its flush, or because a flush failed, leaves changes that may exist only in
    the page cache, marked there as written. The next process would read them, build on them and acknowledge them, and
    a power cut would lose them and everything after them. Within a process this cannot happen: a change whose flush
    failed is undone, and the next one is written over it.

    Raises:
        OSError: the disk refuses to read or write.
    """
    wal = path.with_name(f"{path.name}-wal")
    if not wal.exists():
        return
    with wal.open("r+b", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            file.seek(-len(chunk), os.SEEK_CUR)
            file.write(chunk)
        os.fsync(file.fileno())


def open_database(path: Path) -> Engine:
    """An SQLAlchemy engine for the database at `path`, which its first connection creates if need be."""
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver must not begin transactions behind our back
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        driver: Any = connection.connection.dbapi_connection  # bypasses SQLAlchemy: every third statement is a BEGIN
        driver.execute("BEGIN")

    return engine
