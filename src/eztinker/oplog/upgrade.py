"""Upgrades of an older program's log to the present schema: a backup first, then all changes in one transaction.

A process that dies on the way leaves either the old log, which the next start upgrades, or the new one. A new log is
created from `schema.metadata` directly; a test checks that the migrations lead to the same tables. Alembic, which takes
half a second to import, is therefore imported for upgrades only.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect
from sqlalchemy.exc import DBAPIError, OperationalError

from eztinker.errors import ConfigError
from eztinker.failpoints import reach
from eztinker.flushing import flush
from eztinker.oplog.schema import SCHEMA_VERSION, metadata

log = logging.getLogger(__name__)

FIRST_VERSION = 2
"""Oldest schema version that can be upgraded."""
VERSION_TABLE = "alembic_version"
OLD_VERSION_TABLE = "schema_version"
"""Version table of logs from before there were migrations."""


@dataclass(frozen=True, slots=True)
class Migrations:
    """A newest schema version, and the directories with the migrations that lead to it."""

    newest: int
    directories: tuple[Path, ...]


MIGRATIONS = Path(__file__).parent / "migrations"
OURS = Migrations(SCHEMA_VERSION, (MIGRATIONS / "versions",))


def create_or_upgrade(engine: Engine, path: Path, migrations: Migrations = OURS) -> None:
    """Create the tables in a new database, upgrade an older one, and leave an up-to-date one alone.

    Raises:
        ConfigError: the file is no operation log or one of a newer program, or there was no room to upgrade it.
        OperationalError: the disk refuses to read or write.
    """
    version = _version(engine, path)
    if version is None:
        _create(engine)
    elif version != migrations.newest:
        _check(version, migrations.newest)
        try:
            _upgrade(engine, path, version, migrations)
        except (DBAPIError, sqlite3.Error, OSError) as error:
            reason = error.orig if isinstance(error, DBAPIError) else error
            raise ConfigError(
                f"The operation log {path} has schema version {version}, and could not be upgraded to "
                f"{migrations.newest} ({reason}); it is as it was. See that its disk has room for a second copy of it "
                "and can be written, and start again"
            ) from error


def backup_path(path: Path, version: int) -> Path:
    """Path of the backup that is made of the log at `path` before it is upgraded from `version`."""
    return path.with_name(f"{path.stem}.version-{version}{path.suffix}")


def run_migrations(connection: Connection, migrations: Migrations = OURS) -> None:
    """Upgrade the tables from their version to the newest, in the transaction of `connection`."""
    from alembic import command

    command.upgrade(alembic_config({"connection": connection}, migrations), "head")


def alembic_config(target: dict[str, object], migrations: Migrations = OURS):
    """Alembic's settings without an ini file; `target` tells `migrations/env.py` which connection to use."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    config.set_main_option("version_locations", os.pathsep.join(map(str, migrations.directories)))
    config.attributes["target"] = target
    return config


def _version(engine: Engine, path: Path) -> int | None:
    """Schema version of the database; None if it has no tables."""
    try:
        with engine.connect() as connection:
            tables = inspect(connection).get_table_names()
            if not tables:
                return None
            for table, column in ((VERSION_TABLE, "version_num"), (OLD_VERSION_TABLE, "version")):
                if table in tables:
                    return int(connection.exec_driver_sql(f"SELECT {column} FROM {table}").scalar_one())
    except DBAPIError as error:
        if isinstance(error, OperationalError):
            raise  # the disk, not the file
        raise ConfigError(
            f"{path} is not an operation log, or is damaged ({error.orig}); put a backup in its place, or use another "
            "data directory"
        ) from error
    raise ConfigError(f"{path} is a database, but not an operation log; use another data directory")


def _check(version: int, newest: int) -> None:
    if version < FIRST_VERSION:
        raise ConfigError(
            f"The operation log has schema version {version}, from before the first release, and this program needs "
            f"{newest}; use another data directory"
        )
    if version > newest:
        raise ConfigError(
            f"The operation log has schema version {version}, and this program knows versions up to {newest}; "
            "upgrade eztinker, or use another data directory"
        )


def _create(engine: Engine) -> None:
    with engine.begin() as connection:
        metadata.create_all(connection)
        _stamp(connection, SCHEMA_VERSION)


def _stamp(connection: Connection, version: int) -> None:
    """Store the schema version as Alembic does."""
    connection.exec_driver_sql(
        f"CREATE TABLE {VERSION_TABLE} ("
        f"version_num VARCHAR(32) NOT NULL, CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY (version_num))"
    )
    connection.exec_driver_sql(f"INSERT INTO {VERSION_TABLE} VALUES ('{version}')")


def _upgrade(engine: Engine, path: Path, version: int, migrations: Migrations) -> None:
    reach("upgrade.begin")
    backup = _back_up(path, version)
    with engine.connect() as connection:
        # Recreating a table under its old name must not delete the rows that refer to it.
        connection.connection.execute("PRAGMA foreign_keys=OFF")  # pyright: ignore[reportAttributeAccessIssue]
        with connection.begin():
            if not inspect(connection).has_table(VERSION_TABLE):
                _stamp(connection, version)
            run_migrations(connection, migrations)
            _require_references(connection)
            reach("upgrade.commit")
        connection.invalidate()  # the next one comes with foreign keys
    reach("upgrade.committed")
    log.info(
        "The operation log was upgraded from schema version %d to %d; as it was, it is in %s",
        version,
        migrations.newest,
        backup,
        extra={"event": "log_upgraded"},
    )


def _back_up(path: Path, version: int) -> Path:
    """Copy the log; the copy appears under its name only once it is complete and on disk."""
    backup = backup_path(path, version)
    partial = backup.with_name(backup.name + ".partial")
    _remove(partial)
    try:
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(partial)) as copy:
            reach("upgrade.backup")
            source.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, with nothing beside it
        reach("upgrade.copied")
        flush(partial)
        partial.rename(backup)
        flush(path.parent)
    except BaseException:
        _remove(partial)
        raise
    reach("upgrade.backed_up")
    return backup


def _remove(partial: Path) -> None:
    """Delete an unfinished copy and the files that SQLite may have left beside it."""
    for leftover in partial.parent.glob(partial.name + "*"):
        leftover.unlink()


def _require_references(connection: Connection) -> None:
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    assert not broken, f"a migration left rows that refer to nothing: {broken[:3]}"
