"""Building blocks for the queries of every table: prepared statements, and rows to and from records.

A statement that runs for every request is a constant of its module with bound parameters: building one takes longer
than running it. The statements of a training step are `Prepared`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
from sqlalchemy import Connection, Dialect, Insert, Row, Select, Table, Update, func, insert, select

from eztinker.types import Record

RowT = TypeVar("RowT", bound=Record)


class Prepared:
    """A statement that is compiled once per set of parameter names and then goes straight to the driver.

    SQLAlchemy's usual path takes five times as long as the statement itself. Errors and rows are the driver's own, with
    values as they are stored.
    """

    def __init__(self, statement: Select | Insert | Update) -> None:
        self.statement = statement
        self._compiled: dict[tuple[str, ...], _Compiled] = {}

    def run(self, db: Connection, parameters: Mapping[str, Any]) -> Any:
        """The driver's cursor, with the statement executed."""
        names = tuple(parameters)
        compiled = self._compiled.get(names)
        if compiled is None:
            compiled = self._compiled[names] = _compile(self.statement, db.dialect, names)
        values = {**compiled.constants, **parameters}
        for name, process in compiled.processors:
            values[name] = process(values[name])
        cursor = db.connection.cursor()
        cursor.execute(compiled.sql, [values[name] for name in compiled.order])
        return cursor


class _Compiled(NamedTuple):
    sql: str
    order: Sequence[str]
    """Names of the parameters in the order of their placeholders."""
    constants: dict[str, Any]
    processors: list[tuple[str, Callable[[Any], Any]]]
    """Conversions to the driver's types, by parameter name, for parameters that need one."""


def _compile(statement: Select | Insert | Update, dialect: Dialect, names: Sequence[str]) -> _Compiled:
    compiled = statement.compile(dialect=dialect, column_keys=list(names))
    binds, order = compiled.binds, compiled.positiontup
    assert order is not None, "the driver takes parameters by their place"
    processors = {name: bind.type.dialect_impl(dialect).bind_processor(dialect) for name, bind in binds.items()}
    return _Compiled(
        sql=str(compiled),
        order=order,
        constants={name: bind.value for name, bind in binds.items() if not bind.required},
        processors=[(name, process) for name, process in processors.items() if process is not None],
    )


def add(db: Connection, table: Table, row: Record) -> None:
    db.execute(_insert(table), msgspec.structs.asdict(row))


def add_many(db: Connection, table: Table, rows: Sequence[Record]) -> None:
    """Insert all of `rows`, at least one."""
    db.execute(_insert(table), [msgspec.structs.asdict(row) for row in rows])


def one(
    db: Connection, query: Select, row_type: type[RowT], parameters: Mapping[str, Any] | None = None
) -> RowT | None:
    """The only row of `query`, or None."""
    found = db.execute(query, parameters).one_or_none()
    return None if found is None else record(found, row_type)


def many(db: Connection, query: Select, row_type: type[RowT]) -> list[RowT]:
    return [record(found, row_type) for found in db.execute(query)]


def record(row: Row, row_type: type[RowT]) -> RowT:
    """A database row as a record; columns that the query left out keep the record's defaults.

    Raises:
        msgspec.ValidationError: a column without a default is missing, or holds a value of another type.
    """
    return msgspec.convert(row._mapping, row_type)


def count(db: Connection, query: Select) -> int:
    return db.execute(select(func.count()).select_from(query.subquery())).scalar_one()


@functools.cache
def _insert(table: Table) -> Insert:
    return insert(table)
