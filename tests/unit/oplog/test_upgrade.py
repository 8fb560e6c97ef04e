"""Logs of older programs: brought up to date whole, with a backup, or refused with a sentence."""

from __future__ import annotations

import io
import json
import os
import random
import re
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from eztinker import failpoints
from eztinker.errors import ConfigError
from eztinker.oplog.database import open_database
from eztinker.oplog.models import run_id_of
from eztinker.oplog.schema import SCHEMA_VERSION, metadata
from eztinker.oplog.store import Store
from eztinker.oplog.upgrade import _stamp, alembic_config, backup_path, create_or_upgrade, run_migrations
from tests.servers import serving_scripted
from tests.unit.oplog.upgrade_kills import SYNTHETIC, VERSION_2
from tests.wire import PROTOBUF, loss_of, outcome

SEED = int(os.environ.get("EZTINKER_TORTURE_SEED", "1"))
NEW_TABLES: dict[str, list[tuple[Any, ...]]] = {"recorded_samples": [], "recorded_sequences": [], "uploads": []}
"""Tables of versions behind 4, which an upgrade makes empty."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "oplog.sqlite3"


def make_version_2(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(VERSION_2.read_text())


def make_version_3(path: Path) -> None:
    make_version_2(path)
    engine = open_database(path)
    with engine.begin() as connection:
        _stamp(connection, 2)
        command.upgrade(alembic_config({"connection": connection}), "3")
    engine.dispose()


def rows(path: Path, columns: str = "*") -> dict[str, list[tuple[Any, ...]]]:
    with closing(sqlite3.connect(path)) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {table: sorted(db.execute(f"SELECT {columns} FROM {table}"), key=repr) for table in tables}


def description(engine: Engine) -> dict[str, Any]:
    """Everything that can be known of the tables."""
    found = inspect(engine)
    return {
        table: (
            [repr(column) for column in found.get_columns(table)],
            found.get_pk_constraint(table),
            sorted(map(repr, found.get_foreign_keys(table))),
            sorted(map(repr, found.get_unique_constraints(table))),
            sorted(map(repr, found.get_check_constraints(table))),
            sorted(repr(index | {"dialect_options": options_of(index)}) for index in found.get_indexes(table)),
        )
        for table in found.get_table_names()
    }


def options_of(index: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in index.get("dialect_options", {}).items()}


def test_migrations_lead_to_the_schema_that_a_new_log_gets(tmp_path: Path):
    made, migrated = open_database(tmp_path / "made"), open_database(tmp_path / "migrated")
    create_or_upgrade(made, tmp_path / "made")
    with migrated.begin() as connection:
        run_migrations(connection)
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    assert description(migrated) == description(made)
    assert set(description(made)) == {*metadata.tables, "alembic_version"}
    assert rows(tmp_path / "migrated") == rows(tmp_path / "made")
    made.dispose()
    migrated.dispose()


def test_the_newest_migration_is_the_version_of_the_schema():
    assert ScriptDirectory.from_config(alembic_config({})).get_heads() == [str(SCHEMA_VERSION)]


def test_postgres_is_told_to_make_the_same_tables():
    config = alembic_config({"dialect_name": "postgresql", "literal_binds": True})
    config.output_buffer = io.StringIO()
    command.upgrade(config, "head", sql=True)
    told_to = re.sub(r"^--.*$", "", config.output_buffer.getvalue(), flags=re.MULTILINE)
    statements = {" ".join(part.split()) for part in re.split(r";\n", told_to)}
    dialect = postgresql.dialect()
    wanted = [CreateTable(table) for table in metadata.sorted_tables]
    wanted += [CreateIndex(index) for table in metadata.sorted_tables for index in table.indexes]
    added = re.findall(r"ALTER TABLE (\w+) ADD COLUMN (.*);", config.output_buffer.getvalue())
    for statement in wanted:
        told = " ".join(str(statement.compile(dialect=dialect)).split())
        for table, column in added:
            if told.startswith(f"CREATE TABLE {table} "):
                told = told.replace(f" {column},", "")
        assert told in statements


def test_a_log_of_version_2_keeps_every_row_and_its_results_are_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SCRIPTED_ENGINE_DIRECTORY", str(tmp_path))
    (tmp_path / "data").mkdir(mode=0o700)
    path = tmp_path / "data" / "oplog.sqlite3"
    make_version_2(path)
    before = rows(path)
    Store(path).close()
    after = rows(path)
    assert (after.pop("alembic_version"), before.pop("schema_version")) == ([(str(SCHEMA_VERSION),)], [(2,)])
    changed = {"operations": None, "models": None}
    assert {**after, **changed} == {**before, **NEW_TABLES, **changed}
    with closing(sqlite3.connect(path)) as db:
        columns = [row[1] for row in db.execute("PRAGMA table_info(operations)")]
    plan, status = columns.index("plan"), columns.index("status")
    assert columns[-2:] == ["plan_checksum", "result_checksum"]
    expected = [[*(b"" if i == plan and v and row[status] != "pending" else v for i, v in enumerate(row)), None, None]
                for row in before["operations"]]  # fmt: skip
    assert [list(row) for row in after["operations"]] == sorted(expected, key=lambda row: repr(tuple(row)))
    first_pass = next(row[0] for row in before["operations"] if row[columns.index("seq_id")] == 1 and row[plan])
    with serving_scripted(tmp_path / "data") as server, server.client() as http:
        assert loss_of(outcome(http, first_pass, accept=PROTOBUF)) == 1.0
        assert len(http.get("/checkpoints").json()["checkpoints"]) == 2


def test_a_log_of_version_3_keeps_every_row_and_has_no_checksums_yet(path: Path):
    make_version_3(path)
    before = rows(path)
    Store(path).close()
    after = rows(path)
    assert (after.pop("alembic_version"), before.pop("alembic_version")) == ([(str(SCHEMA_VERSION),)], [("3",)])
    models = after.pop("models")
    models_before = before.pop("models")
    assert after == before | NEW_TABLES | {"operations": [(*row, None, None) for row in before["operations"]]}
    assert [row[: len(old)] for row, old in zip(models, models_before, strict=True)] == models_before
    assert "alembic_version" in rows(backup_path(path, 3))


def test_the_log_as_it_was_lies_beside_the_upgraded_one(path: Path):
    make_version_2(path)
    before = rows(path)
    Store(path).close()
    assert rows(backup_path(path, 2)) == before
    assert sorted(each.name for each in path.parent.iterdir()) == ["oplog.sqlite3", "oplog.version-2.sqlite3"]


def test_a_log_that_is_new_or_up_to_date_is_opened_without_alembic(path: Path):
    code = "import sys; from pathlib import Path; from eztinker.oplog.store import Store\n"
    code += "Store(Path(sys.argv[1])).close(); print('alembic' in sys.modules)"
    for make in (lambda: None, lambda: None, lambda: (path.unlink(), make_version_2(path))):
        make()
        done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
        assert done.stdout == f"{backup_path(path, 2).exists() or make() is not None}\n"


@pytest.mark.parametrize(("version", "advice"), [(SCHEMA_VERSION + 1, "upgrade eztinker"), (1, "another data")])
def test_a_log_of_a_version_that_cannot_be_used_is_left_alone_with_a_sentence(path: Path, version: int, advice: str):
    Store(path).close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE alembic_version SET version_num = ?", (str(version),))
    before = rows(path)
    with pytest.raises(ConfigError, match=rf"schema version {version}\b.*{SCHEMA_VERSION}; {advice}|{SCHEMA_VERSION}"):
        Store(path)
    assert rows(path) == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to be looked at" * 100, None])
def test_a_file_that_is_no_log_is_left_alone_with_a_sentence(path: Path, content: bytes | None):
    if content is not None:
        path.write_bytes(content)
    else:
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE recipes (name TEXT)")
    with pytest.raises(ConfigError, match=r"oplog.sqlite3.*another data directory"):
        Store(path)


@pytest.mark.parametrize("place", ["upgrade.backup", "upgrade.copied", "upgrade.backed_up", "upgrade.commit"])
def test_a_full_disk_leaves_the_old_log_and_the_next_start_upgrades_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, place: str
):
    make_version_2(path)
    before = rows(path)
    armed = failpoints._Armed.parse(f"{place}:1:enospc:{path.with_name('marker')}")
    monkeypatch.setattr(failpoints, "_armed", armed)
    with pytest.raises(ConfigError, match=r"No space left.*it is as it was.*room for a second copy"):
        Store(path)
    assert rows(path) == before
    assert not list(path.parent.glob("*.partial*"))
    Store(path).close()
    assert "alembic_version" in rows(path)


NUM_KILLS = 50
PLACES = ["begin", "backup", "copied", "backed_up", "commit", "committed"]


def test_an_upgrade_killed_at_any_moment_leaves_the_old_log_or_the_new_one(tmp_path: Path):
    """50 moments spread over an upgrade that changes every row, and each place between two durable steps."""
    generator = random.Random(SEED)
    moments = [(moment + generator.random()) / NUM_KILLS for moment in range(NUM_KILLS)]
    places = [f"upgrade.{place}:1" for place in PLACES] + [f"migration.row:{row}" for row in (1, 200, 400)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.oplog.upgrade_kills", str(tmp_path)],
        input=json.dumps([*places, *moments]), capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    versions = json.loads(done.stdout)
    assert versions[: len(places)] == [2, 2, 2, 2, 2, SYNTHETIC.newest, 2, 2, 2]
    assert len(versions) == len(places) + NUM_KILLS


def test_a_log_of_version_4_sorts_its_models_into_runs_and_counts_their_steps(path: Path):
    """The models of one run were known by what their clients had written into `user_metadata`."""
    make_version_2(path)
    engine = open_database(path)
    with engine.begin() as connection:
        _stamp(connection, 2)
        command.upgrade(alembic_config({"connection": connection}), "4")
        (first,) = connection.exec_driver_sql("SELECT model_id FROM models").one()
        copied = "owner, session_id, status, base_model, rank, train_attn, train_mlp, train_unembed"
        for model_id, owner, run in (("second", "local", first), ("foreign", "eve", first), ("lost", "local", "gone")):
            columns = copied.replace("owner", f"'{owner}'")
            connection.exec_driver_sql(
                f"INSERT INTO models (model_id, {copied}, user_metadata, created_at, last_request_at) "
                f"SELECT ?, {columns}, ?, created_at, last_request_at FROM models WHERE model_id = ?",
                (model_id, json.dumps({"eztinker_run": f"run_{run}"}), first),
            )
        steps = "SELECT count(*) FROM operations WHERE lane = ? AND kind = 'optim_step' AND status != 'failed'"
        num_done = connection.exec_driver_sql(steps, (first,)).scalar_one()
        most_saved = connection.exec_driver_sql("SELECT max(step) FROM checkpoints").scalar_one()
    engine.dispose()
    Store(path).close()
    with closing(sqlite3.connect(path)) as db:
        runs = dict(db.execute("SELECT model_id, run_id FROM models").fetchall())
        (num_steps,) = db.execute("SELECT num_steps FROM models WHERE model_id = ?", (first,)).fetchone()
    assert runs == {first: run_id_of(first), "second": run_id_of(first)} | {
        model_id: run_id_of(model_id) for model_id in ("foreign", "lost")
    }
    assert num_steps == max(num_done, most_saved) > 0
