"""How the log's database file is opened, and what is written once more after a crash."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from eztinker.oplog import database
from eztinker.oplog.database import WAL_BYTES, open_database, reflush_wal


def test_a_commit_is_on_disk_when_it_returns_and_references_are_checked(tmp_path: Path):
    engine = open_database(tmp_path / "log")
    names = ("journal_mode", "synchronous", "foreign_keys", "journal_size_limit")
    with engine.connect() as db:
        found = {name: db.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in names}
        full = 2
        assert found == {
            "journal_mode": "wal",
            "synchronous": full,
            "foreign_keys": 1,
            "journal_size_limit": WAL_BYTES,
        }
        db.exec_driver_sql("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
        db.exec_driver_sql("CREATE TABLE child (parent REFERENCES parent (id))")
        with pytest.raises(IntegrityError, match="FOREIGN KEY"):
            db.exec_driver_sql("INSERT INTO child VALUES (1)")
    engine.dispose()


def test_tables_too_are_made_in_a_transaction_that_can_be_undone(tmp_path: Path):
    """The driver by itself would commit before and after such a statement."""
    engine = open_database(tmp_path / "log")
    with engine.connect() as db, db.begin() as transaction:
        db.exec_driver_sql("CREATE TABLE half (id INTEGER)")
        transaction.rollback()
    with engine.connect() as db:
        assert db.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one() == 0
    engine.dispose()


@pytest.mark.parametrize("chunk_bytes", [1, 100, 1 << 20])
def test_writing_the_log_of_changes_again_changes_no_byte_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
):
    monkeypatch.setattr(database, "_CHUNK_BYTES", chunk_bytes)
    path = tmp_path / "log"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE numbers (n INTEGER)")
        db.execute("INSERT INTO numbers VALUES (7)")
        db.commit()
        wal = path.with_name("log-wal")
        before = wal.read_bytes()
        assert len(before) > 100
        reflush_wal(path)
        assert wal.read_bytes() == before
        assert db.execute("SELECT n FROM numbers").fetchall() == [(7,)]


def test_where_there_is_none_none_is_made(tmp_path: Path):
    reflush_wal(tmp_path / "log")
    assert list(tmp_path.iterdir()) == []
