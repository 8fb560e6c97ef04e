"""Queries on training runs."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Connection, select, update

from eztinker.oplog import queries
from eztinker.oplog.rows import Model, ModelStatus
from eztinker.oplog.schema import models
from eztinker.types import Page


def add(db: Connection, model: Model) -> None:
    queries.add(db, models, model)


def get(db: Connection, model_id: str) -> Model | None:
    return queries.one(db, select(models).where(models.c.model_id == model_id), Model)


def of_owner(db: Connection, owner: str, page: Page) -> tuple[list[Model], int]:
    """The owner's runs, newest first, and how many there are."""
    query = select(models).where(models.c.owner == owner)
    newest = query.order_by(models.c.created_at.desc(), models.c.model_id)
    return queries.many(db, newest.offset(page.offset).limit(page.limit), Model), queries.count(db, query)


def of_session(db: Connection, session_id: str) -> list[Model]:
    query = select(models).where(models.c.session_id == session_id).order_by(models.c.created_at)
    return queries.many(db, query, Model)


def set_status(db: Connection, model_ids: Collection[str], status: ModelStatus) -> None:
    """Active runs come to an end; a run that ended before keeps its first reason."""
    db.execute(
        update(models)
        .where(models.c.model_id.in_(model_ids), models.c.status == ModelStatus.ACTIVE)
        .values(status=status)
    )


def active(db: Connection) -> list[Model]:
    return queries.many(db, select(models).where(models.c.status == ModelStatus.ACTIVE), Model)


def touch(db: Connection, model_id: str, now: datetime) -> None:
    """Remember when the run was last used."""
    db.execute(update(models).where(models.c.model_id == model_id).values(last_request_at=now))
