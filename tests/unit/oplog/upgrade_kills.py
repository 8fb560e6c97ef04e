"""Upgrades an old log in a child process that is killed, again and again.

`python -m tests.unit.oplog.upgrade_kills DIRECTORY` reads a list of deaths as JSON from its input: each the name of a
failpoint, or the part of an upgrade's time after which the kill comes. It prints for each the version that the log had
afterwards. Forks from a process of its own, which has no threads.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

from eztinker import failpoints
from eztinker.oplog.database import open_database
from eztinker.oplog.schema import SCHEMA_VERSION
from eztinker.oplog.upgrade import OURS, Migrations, backup_path, create_or_upgrade

VERSION_2 = Path(__file__).with_name("oplog_version_2.sql")
SYNTHETIC = Migrations(SCHEMA_VERSION + 1, (*OURS.directories, Path(__file__).with_name("migrations_of_tests")))
NUM_COPIES = 30


def make_log(path: Path) -> None:
    """A log of version 2 with a megabyte in it."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript(VERSION_2.read_text())
        db.execute("PRAGMA journal_mode=WAL")
        columns = [str(row[1]) for row in db.execute("PRAGMA table_info(operations)")]
        other = {"op_id": "op_id || n", "lane": "lane || n", "result": "zeroblob(3000)"}
        copied = ", ".join(other.get(column, column) for column in columns)
        numbers = f"WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {NUM_COPIES})"
        db.execute(
            f"{numbers} INSERT INTO operations SELECT {copied} FROM operations, numbers WHERE status != 'pending'"
        )
        db.commit()


def upgrade(path: Path) -> None:
    engine = open_database(path)
    create_or_upgrade(engine, path, SYNTHETIC)
    engine.dispose()


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        table = "alembic_version" if "alembic_version" in tables else "schema_version"
        (version,) = db.execute(f"SELECT * FROM {table}").fetchone()
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    return int(version)


def contents(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        return sorted(db.iterdump())


def die(path: Path, death: str | float, seconds: float) -> None:
    """Upgrade the log at `path` in a child that dies."""
    pid = os.fork()
    if pid == 0:
        if isinstance(death, str):
            failpoints._armed = failpoints._Armed.parse(f"{death}:kill:{path.with_name('marker')}")
        upgrade(path)
        os._exit(0)
    if not isinstance(death, str):
        time.sleep(death * seconds)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) in ((-signal.SIGKILL,) if isinstance(death, str) else (0, -signal.SIGKILL))


def main(directory: Path) -> None:
    original, expected = directory / "original.sqlite3", directory / "expected.sqlite3"
    for path in (original, expected):
        make_log(path)
    upgrade(expected)  # imports what a first upgrade imports
    seconds = _seconds_of_upgrade(directory / "timed.sqlite3")
    versions = []
    for number, death in enumerate(json.load(sys.stdin)):
        place = directory / str(number)
        place.mkdir()
        path = place / "log.sqlite3"
        make_log(path)
        die(path, death, seconds)
        versions.append(version_of(path))
        upgrade(path)
        assert version_of(path) == SYNTHETIC.newest
        assert contents(path) == contents(expected), death
        assert contents(backup_path(path, 2)) == contents(original), death
        assert not list(place.glob("*.partial*")), death
    print(json.dumps(versions))


def _seconds_of_upgrade(path: Path) -> float:
    make_log(path)
    began = time.perf_counter()
    upgrade(path)
    return time.perf_counter() - began


if __name__ == "__main__":
    main(Path(sys.argv[1]))
