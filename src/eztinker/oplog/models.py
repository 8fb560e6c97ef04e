"""Queries on the models of the Tinker API, each of which begins a training run or continues one."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import ColumnElement, Connection, bindparam, func, or_, select, update
from sqlalchemy.exc import IntegrityError

from eztinker.errors import AlreadyExists
from eztinker.oplog import queries
from eztinker.oplog.rows import Model, ModelStatus
from eztinker.oplog.schema import checkpoints, models, sessions
from eztinker.oplog.sessions import project
from eztinker.types import Page

_BY_ID = select(models).where(models.c.model_id == bindparam("model_id"))
RUN_PREFIX = "run_"
RUN_ID_DIGITS = 12
_TOUCH = queries.Prepared(
    update(models).where(models.c.model_id == bindparam("touched"), models.c.status == ModelStatus.ACTIVE)
)
_COUNT_STEP = queries.Prepared(
    update(models).where(models.c.model_id == bindparam("stepped")).values(num_steps=models.c.num_steps + 1)
)
_SET_LAST_LOSS = queries.Prepared(update(models).where(models.c.model_id == bindparam("trained")))


def run_id_of(model_id: str) -> str:
    """Id of the run that a model begins: a short hash, the same on every server."""
    return f"{RUN_PREFIX}{hashlib.sha256(model_id.encode(errors='surrogatepass')).hexdigest()[:RUN_ID_DIGITS]}"


def add(db: Connection, model: Model) -> None:
    """Store a new model; without a `run_id` it begins a run.

    Raises:
        AlreadyExists: the model's id, or the run's name, is taken.
    """
    if model.name is not None:
        _require_free(db, model.owner, model.name)
    try:
        queries.add(db, models, msgspec.structs.replace(model, run_id=model.run_id or run_id_of(model.model_id)))
    except IntegrityError as error:
        raise AlreadyExists(f"The training run {model.model_id} exists already; use another model_seq_id") from error


def get(db: Connection, model_id: str) -> Model | None:
    return queries.one(db, _BY_ID, Model, {"model_id": model_id})


def of_owner(
    db: Connection, owner: str, page: Page, *, with_public: bool, project_id: str | None
) -> tuple[list[Model], int]:
    """One page of the owner's models, newest first, and the number of all.

    Args:
        with_public: include models of other owners that have a public checkpoint.
        project_id: include only models whose session is in this project.
    """
    query = select(models).where(_visible(owner) if with_public else models.c.owner == owner)
    if project_id is not None:
        in_project = select(sessions.c.session_id).where(project == project_id)
        query = query.where(models.c.session_id.in_(in_project))
    newest = query.order_by(models.c.created_at.desc(), models.c.model_id)
    return queries.many(db, newest.offset(page.offset).limit(page.limit), Model), queries.count(db, query)


def resolve_run(db: Connection, reference: str, owners: Sequence[str]) -> str | None:
    """Id of the run that `reference` names: by its id, by the id of one of its models, or by its name.

    Args:
        owners: whose names to search, in this order. A run of anybody else is found by its id alone, and only after the
            same queries as for an id that does not exist, so that response times do not tell the two apart.
    """
    with_id = select(models).where(models.c.run_id == reference).limit(1)
    found = [get(db, reference), get(db, reference.removeprefix(RUN_PREFIX)), *queries.many(db, with_id, Model)]
    there = [model for model in found if model is not None]
    if own := [model.run_id for model in there if model.owner in owners]:
        return own[0]
    for owner in owners:
        named = select(models.c.run_id).where(models.c.owner == owner, models.c.name == reference).limit(1)
        if (run_id := db.execute(named).scalar_one_or_none()) is not None:
            return run_id
    return there[0].run_id if there else None


def resolve(db: Connection, reference: str, owners: Sequence[str]) -> list[Model]:
    """The model with this id or, if there is none, all models of the run that `reference` names, as in `of_run`.

    A model of other owners is found only after the same queries as for an id that does not exist, as in `resolve_run`.
    """
    model = get(db, reference)
    if model is not None and model.owner in owners:
        return [model]
    run_id = resolve_run(db, reference, owners)
    found = of_run(db, run_id or "")
    is_theirs = bool(found) and found[0].owner in owners
    return found if model is None or is_theirs else [model]


def of_run(db: Connection, run_id: str) -> list[Model]:
    """Models of a run, the most recently used first."""
    query = select(models).where(models.c.run_id == run_id)
    return queries.many(db, query.order_by(models.c.last_request_at.desc(), models.c.created_at.desc()), Model)


def runs_of_owner(db: Connection, owner: str, page: Page) -> tuple[list[list[Model]], int]:
    """One page of the owner's runs, newest first, each as its models ordered as in `of_run`; and the number of all."""
    query = select(models.c.run_id).where(models.c.owner == owner).group_by(models.c.run_id)
    newest = query.order_by(func.min(models.c.created_at).desc(), models.c.run_id)
    run_ids = db.execute(newest.offset(page.offset).limit(page.limit)).scalars().all()
    return [of_run(db, run_id) for run_id in run_ids], queries.count(db, query)


def set_label(db: Connection, first: Model, *, name: str | None, note: str | None) -> None:
    """Set the name and note of the run whose first model is `first`; None clears them.

    Raises:
        AlreadyExists: another run of the owner has the name.
    """
    if name is not None and name != first.name:
        _require_free(db, first.owner, name)
    db.execute(update(models).where(models.c.model_id == first.model_id).values(name=name, note=note))


def of_session(db: Connection, session_id: str) -> list[Model]:
    query = select(models).where(models.c.session_id == session_id).order_by(models.c.created_at)
    return queries.many(db, query, Model)


def base_models(db: Connection, model_ids: Collection[str]) -> dict[str, str]:
    """Base models by model id."""
    query = select(models.c.model_id, models.c.base_model).where(models.c.model_id.in_(model_ids))
    return {row.model_id: row.base_model for row in db.execute(query)}


def num_active(db: Connection) -> dict[str, int]:
    """Number of loaded models by owner."""
    query = select(models.c.owner, func.count().label("num_runs")).where(models.c.status == ModelStatus.ACTIVE)
    return {row.owner: row.num_runs for row in db.execute(query.group_by(models.c.owner))}


def set_status(db: Connection, model_ids: Collection[str], status: ModelStatus) -> None:
    """Set the status of active models that end; a model that has ended keeps its first status."""
    db.execute(
        update(models)
        .where(models.c.model_id.in_(model_ids), models.c.status == ModelStatus.ACTIVE)
        .values(status=status)
    )


def active(db: Connection) -> list[Model]:
    return queries.many(db, select(models).where(models.c.status == ModelStatus.ACTIVE), Model)


def touch(db: Connection, model_id: str, now: datetime) -> bool:
    """Store the time at which an active model was last used; False if the model has ended."""
    return _TOUCH.run(db, {"touched": model_id, "last_request_at": now}).rowcount > 0


def count_step(db: Connection, model_id: str) -> None:
    """Count one more optimizer step of a model."""
    _COUNT_STEP.run(db, {"stepped": model_id})


def set_steps(db: Connection, model_id: str, num_steps: int) -> None:
    """Set the number of optimizer steps behind a model's weights, which it has just loaded."""
    db.execute(update(models).where(models.c.model_id == model_id).values(num_steps=num_steps))


def set_last_loss(db: Connection, model_id: str, loss: float) -> None:
    _SET_LAST_LOSS.run(db, {"trained": model_id, "last_loss": loss})


def _require_free(db: Connection, owner: str, name: str) -> None:
    query = select(models.c.run_id).where(models.c.owner == owner, models.c.name == name)
    if (taken_by := db.execute(query).scalar_one_or_none()) is not None:
        raise AlreadyExists(f"The run {taken_by} is named {name!r} already; choose another name, or rename that one")


def _visible(owner: str) -> ColumnElement[bool]:
    with_public = select(checkpoints.c.model_id).where(checkpoints.c.is_public, checkpoints.c.removed_at.is_(None))
    return or_(models.c.owner == owner, models.c.model_id.in_(with_public))
