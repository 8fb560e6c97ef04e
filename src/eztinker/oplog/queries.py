"""What every table's queries share."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from sqlalchemy import Connection, Select, Table, func, insert, select

from eztinker.types import Record

RowT = TypeVar("RowT", bound=Record)


def add(db: Connection, table: Table, row: Record) -> None:
    db.execute(insert(table).values(msgspec.structs.asdict(row)))


def one(db: Connection, query: Select, row_type: type[RowT]) -> RowT | None:
    """The only row of `query`, or None."""
    found = db.execute(query).one_or_none()
    return None if found is None else msgspec.convert(found, row_type, from_attributes=True)


def many(db: Connection, query: Select, row_type: type[RowT]) -> list[RowT]:
    return [msgspec.convert(found, row_type, from_attributes=True) for found in db.execute(query)]


def count(db: Connection, query: Select) -> int:
    return db.execute(select(func.count()).select_from(query.subquery())).scalar_one()
