"""Queries on training runs."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, bindparam, func, or_, select, update
from sqlalchemy.exc import IntegrityError

from eztinker.errors import AlreadyExists
from eztinker.oplog import queries
from eztinker.oplog.rows import Model, ModelStatus
from eztinker.oplog.schema import checkpoints, models, sessions
from eztinker.oplog.sessions import project
from eztinker.types import Page

_BY_ID = select(models).where(models.c.model_id == bindparam("model_id"))
_TOUCH = queries.Prepared(
    update(models).where(models.c.model_id == bindparam("touched"), models.c.status == ModelStatus.ACTIVE)
)


def add(db: Connection, model: Model) -> None:
    """Store a new run.

    Raises:
        AlreadyExists: its id is taken.
    """
    try:
        queries.add(db, models, model)
    except IntegrityError as error:
        raise AlreadyExists(f"The training run {model.model_id} exists already; use another model_seq_id") from error


def get(db: Connection, model_id: str) -> Model | None:
    return queries.one(db, _BY_ID, Model, {"model_id": model_id})


def of_owner(
    db: Connection, owner: str, page: Page, *, with_public: bool, project_id: str | None
) -> tuple[list[Model], int]:
    """The owner's runs, newest first, and how many there are.

    Args:
        with_public: also the runs of others that have a public checkpoint.
        project_id: only runs whose session is in this project.
    """
    query = select(models).where(_visible(owner) if with_public else models.c.owner == owner)
    if project_id is not None:
        in_project = select(sessions.c.session_id).where(project == project_id)
        query = query.where(models.c.session_id.in_(in_project))
    newest = query.order_by(models.c.created_at.desc(), models.c.model_id)
    return queries.many(db, newest.offset(page.offset).limit(page.limit), Model), queries.count(db, query)


def of_session(db: Connection, session_id: str) -> list[Model]:
    query = select(models).where(models.c.session_id == session_id).order_by(models.c.created_at)
    return queries.many(db, query, Model)


def base_models(db: Connection, model_ids: Collection[str]) -> dict[str, str]:
    """By the id of the run."""
    query = select(models.c.model_id, models.c.base_model).where(models.c.model_id.in_(model_ids))
    return {row.model_id: row.base_model for row in db.execute(query)}


def num_active(db: Connection) -> dict[str, int]:
    """How many runs of each owner are loaded."""
    query = select(models.c.owner, func.count().label("num_runs")).where(models.c.status == ModelStatus.ACTIVE)
    return {row.owner: row.num_runs for row in db.execute(query.group_by(models.c.owner))}


def set_status(db: Connection, model_ids: Collection[str], status: ModelStatus) -> None:
    """Active runs come to an end; a run that ended before keeps its first reason."""
    db.execute(
        update(models)
        .where(models.c.model_id.in_(model_ids), models.c.status == ModelStatus.ACTIVE)
        .values(status=status)
    )


def active(db: Connection) -> list[Model]:
    return queries.many(db, select(models).where(models.c.status == ModelStatus.ACTIVE), Model)


def touch(db: Connection, model_id: str, now: datetime) -> bool:
    """Remember when an active run was last used; False if it has ended."""
    return _TOUCH.run(db, {"touched": model_id, "last_request_at": now}).rowcount > 0


def _visible(owner: str) -> ColumnElement[bool]:
    with_public = select(checkpoints.c.model_id).where(checkpoints.c.is_public, checkpoints.c.removed_at.is_(None))
    return or_(models.c.owner == owner, models.c.model_id.in_(with_public))
