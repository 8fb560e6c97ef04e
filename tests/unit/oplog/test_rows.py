"""Every kind of row in the log is read back, however little it holds: recovery depends on it."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from msgspec.inspect import type_info
from sqlalchemy import Connection, Table, create_engine, insert, select

from eztinker import oplog
from eztinker.oplog import (
    audit,
    checkpoints,
    epochs,
    models,
    operations,
    payloads,
    queries,
    recorded_samples,
    session_search,
    sessions,
    snapshots,
    uploads,
    usage,
)
from eztinker.oplog.rows import OperationRow, OperationStatus, SettledOperation
from eztinker.oplog.schema import metadata
from eztinker.types import CheckpointKind, OperationKind, Page, Record

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = datetime(2027, 1, 1, tzinfo=UTC)
WITHOUT_RECORD = {"payloads", "epochs"}
"""Tables whose queries give bytes and numbers."""
COUNTED = {"entry_id", "usage_id"}
"""Keys that the database counts; no record has them."""
SAMPLES: dict[type, Any] = {
    msgspec.inspect.StrType: "text",
    msgspec.inspect.IntType: 7,
    msgspec.inspect.FloatType: 0.5,
    msgspec.inspect.BoolType: True,
    msgspec.inspect.BytesType: b"\x00bytes",
    msgspec.inspect.DateTimeType: NOW,
    msgspec.inspect.ListType: ["a", "b"],
    msgspec.inspect.DictType: {"key": "value"},
}


def records() -> Iterator[type[Record]]:
    """The records that any module of the log defines."""
    for module in pkgutil.iter_modules(oplog.__path__, "eztinker.oplog."):
        for _, found in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(found, Record) and found.__module__ == module.name:
                yield found


def record_of(table: Table) -> type[Record] | None:
    """The record that has a field for every column."""
    names = {column.name for column in table.c} - COUNTED
    return next((found for found in records() if set(found.__struct_fields__) == names), None)


RECORD_OF = {name: found for name, table in metadata.tables.items() if (found := record_of(table)) is not None}


def fields(record: type[Record]) -> dict[str, msgspec.inspect.Field]:
    info = type_info(record)
    assert isinstance(info, msgspec.inspect.StructType)
    return {field.name: field for field in info.fields}


def sample(kind: msgspec.inspect.Type) -> Any:
    """A value of that type that no column holds by default."""
    if isinstance(kind, msgspec.inspect.UnionType):
        return sample(kind.types[0])
    if isinstance(kind, msgspec.inspect.EnumType):
        return list(kind.cls)[-1]
    if isinstance(kind, msgspec.inspect.LiteralType):
        return kind.values[-1]
    return SAMPLES[type(kind)]


def full(record: type[Record]) -> dict[str, Any]:
    return {name: sample(field.type) for name, field in fields(record).items()}


def bare(table: Table, record: type[Record]) -> dict[str, Any]:
    """Nothing but what the table insists on."""
    values = full(record)
    return {name: None if table.c[name].nullable else value for name, value in values.items()}


@pytest.fixture
def db() -> Iterator[Connection]:
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def read_back(db: Connection, table: Table, values: dict[str, Any], *, without: Collection[str] = ()) -> dict[str, Any]:
    """The record that a query without some of the columns makes of a row."""
    db.execute(insert(table), values)
    query = select(*(column for column in table.c if column.name not in without))
    (row,) = queries.many(db, query, RECORD_OF[table.name])
    return msgspec.structs.asdict(row)


def test_every_table_has_a_record():
    assert set(RECORD_OF) | WITHOUT_RECORD == set(metadata.tables)


@pytest.mark.parametrize("name", RECORD_OF)
def test_a_full_row_is_read_back(db: Connection, name: str):
    values = full(RECORD_OF[name])
    assert read_back(db, metadata.tables[name], values) == values


@pytest.mark.parametrize("name", RECORD_OF)
def test_a_row_without_what_may_be_null_is_read_back(db: Connection, name: str):
    values = bare(metadata.tables[name], RECORD_OF[name])
    assert read_back(db, metadata.tables[name], values) == values


@pytest.mark.parametrize("name", RECORD_OF)
def test_columns_that_a_query_leaves_out_take_the_defaults_of_the_record(db: Connection, name: str):
    values = full(RECORD_OF[name])
    defaults = {field.name: field.default for field in fields(RECORD_OF[name]).values() if not field.required}
    assert read_back(db, metadata.tables[name], values, without=defaults) == values | defaults


@pytest.mark.parametrize("name", RECORD_OF)
def test_a_missing_column_without_a_default_is_named(db: Connection, name: str):
    needed = next(field.name for field in fields(RECORD_OF[name]).values() if field.required)
    with pytest.raises(msgspec.ValidationError, match=needed):
        read_back(db, metadata.tables[name], full(RECORD_OF[name]), without={needed})


PENDING = {"status": OperationStatus.PENDING, "lane": "model", "kind": OperationKind.SAVE_WEIGHTS}
DONE = {"status": OperationStatus.DONE, "lane": "model", "kind": OperationKind.OPTIM_STEP, "completion": 7, "seq_id": 7}
SAVED = {"status": OperationStatus.DONE, "lane": "model", "kind": OperationKind.SAVE_WEIGHTS, "seq_id": None}
NAMED = {"kind": CheckpointKind.TRAINING, "name": "step", "model_id": "model", "removed_at": None, "expires_at": None}
LASTING = {"session_id": "session", "status": "active"}
Read = Callable[[Connection], Any]
READERS: list[tuple[str, dict[str, Any], Read]] = [
    ("sessions", LASTING, lambda db: sessions.session(db, "session")),
    ("sessions", LASTING, sessions.active_sessions),
    ("sessions", LASTING, lambda db: sessions.sessions_of(db, "text", Page(offset=0, limit=10))),
    (
        "sessions",
        LASTING,
        lambda db: list(session_search.walk(db, "text", project_ids=None, statuses=None, after=None)),
    ),
    ("models", {"model_id": "model"}, lambda db: models.get(db, "model")),
    ("models", {"status": "active"}, models.active),
    ("models", {"session_id": "session"}, lambda db: models.of_session(db, "session")),
    ("checkpoints", NAMED, lambda db: checkpoints.of_models(db, ["model"])),
    ("checkpoints", NAMED, lambda db: checkpoints.by_name(db, "model", CheckpointKind.TRAINING, "step")),
    ("checkpoints", NAMED | {"expires_at": NOW}, lambda db: checkpoints.expired(db, LATER)),
    ("sampling_sessions", {"sampling_session_id": "one"}, lambda db: sessions.sampling_session(db, "one")),
    ("operations", {"op_id": "one"}, lambda db: operations.get(db, "one")),
    ("operations", PENDING, operations.pending),
    ("operations", SAVED, lambda db: operations.own_saves(db, "model")),
    ("snapshots", {"model_id": "model"}, lambda db: snapshots.of_model(db, "model")),
    ("audit_entries", {}, lambda db: audit.between(db, "text", NOW, LATER, resource=None)),
    ("usage", {}, lambda db: usage.between(db, "text", NOW, LATER)),
    ("uploads", {"upload_id": "one"}, lambda db: uploads.get(db, "one")),
    ("recorded_samples", {"op_id": "one"}, lambda db: recorded_samples.samples(db, "text", "text", ["one"])),
    (
        "recorded_sequences",
        {"op_id": "one", "place": 0},
        lambda db: list(recorded_samples.sequences(db, [("one", 0)])),
    ),
]


def test_a_reader_of_every_kind_of_row_is_tried():
    assert {name for name, _, _ in READERS} == set(RECORD_OF)


@pytest.mark.parametrize("is_full", [True, False], ids=["full", "bare"])
@pytest.mark.parametrize(("name", "given", "read"), READERS)
def test_the_queries_of_recovery_and_listings_give_the_row(
    db: Connection, name: str, given: dict[str, Any], read: Read, is_full: bool
):
    table, record = metadata.tables[name], RECORD_OF[name]
    values = (full(record) if is_full else bare(table, record)) | given
    db.execute(insert(table), values)
    found = read(db)
    row = found[0] if isinstance(found, list) else found
    assert msgspec.structs.asdict(row) == values


@pytest.mark.parametrize("is_full", [True, False], ids=["full", "bare"])
def test_all_of_an_operation_but_its_result_is_read_for_a_replay(db: Connection, is_full: bool):
    table = metadata.tables["operations"]
    values = (full(OperationRow) if is_full else bare(table, OperationRow)) | DONE | {"payload": "digest"}
    db.execute(insert(table), values)
    (row,) = operations.to_replay(db, "model")
    assert msgspec.structs.asdict(row) == values | {"result": None}


@pytest.mark.parametrize("result", [b"result", None])
def test_an_outcome_is_announced_with_the_size_of_its_result(db: Connection, result: bytes | None):
    values = bare(metadata.tables["operations"], OperationRow) | DONE | {"result": result}
    db.execute(insert(metadata.tables["operations"]), values)
    (announced,) = operations.completions(db, "model", after=0, seq_ids=range(100), limit=10)
    assert announced == SettledOperation(
        op_id="text", completion=7, status=OperationStatus.DONE, num_bytes=None if result is None else len(result)
    )


def test_payloads_and_epochs_are_read_back(db: Connection):
    digests = {payloads.keep(db, content): content for content in (b"", b"\x00\xff")}
    assert payloads.contents(db, list(digests)) == digests
    epochs.require_newest(db, epochs.begin(db, NOW))
