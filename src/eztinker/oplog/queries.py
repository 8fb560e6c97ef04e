"""What every table's queries share.

A statement that runs for every request is a constant of its module with bound parameters: building one takes longer
than running it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, Insert, Select, Table, func, insert, select

from eztinker.types import Record

RowT = TypeVar("RowT", bound=Record)


def add(db: Connection, table: Table, row: Record) -> None:
    db.execute(_insert(table), msgspec.structs.asdict(row))


def one(
    db: Connection, query: Select, row_type: type[RowT], parameters: Mapping[str, Any] | None = None
) -> RowT | None:
    """The only row of `query`, or None."""
    found = db.execute(query, parameters).one_or_none()
    return None if found is None else msgspec.convert(found, row_type, from_attributes=True)


def many(db: Connection, query: Select, row_type: type[RowT]) -> list[RowT]:
    return [msgspec.convert(found, row_type, from_attributes=True) for found in db.execute(query)]


def count(db: Connection, query: Select) -> int:
    return db.execute(select(func.count()).select_from(query.subquery())).scalar_one()


@functools.cache
def _insert(table: Table) -> Insert:
    return insert(table)
