"""Queries on checkpoints, which see removed ones only where they say so: their rows stay until the directory is gone.

A checkpoint that has expired is removed at the next sweep; until then only `of_owner`, which counts, passes over it.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, ScalarSelect, Select, and_, delete, or_, select, update
from sqlalchemy.exc import IntegrityError

from eztinker.errors import AlreadyExists
from eztinker.oplog import queries, sessions
from eztinker.oplog.rows import Checkpoint
from eztinker.oplog.schema import checkpoints, models, sampling_sessions
from eztinker.types import CheckpointKind, Page

_live = checkpoints.c.removed_at.is_(None)
_newest_first = (checkpoints.c.created_at.desc(), checkpoints.c.checkpoint_id)


def add(db: Connection, checkpoint: Checkpoint, *, overwrite: bool) -> None:
    """Store a finished checkpoint; with `overwrite` it takes the name from an older checkpoint of its run.

    Raises:
        AlreadyExists: the name is taken.
    """
    now = checkpoint.created_at
    same_name = _named(checkpoint.model_id, checkpoint.kind, checkpoint.name)
    if overwrite:
        run_id = select(models.c.run_id).where(models.c.model_id == checkpoint.model_id).scalar_subquery()
        _remove(db, _named_in_run(run_id, checkpoint.kind, checkpoint.name), now)
    else:
        _remove(db, and_(same_name, checkpoints.c.expires_at <= now), now)
    try:
        queries.add(db, checkpoints, checkpoint)
    except IntegrityError as error:
        raise name_taken(checkpoint.model_id, checkpoint.kind, checkpoint.name) from error


def name_taken(model_id: str, kind: CheckpointKind, name: str | None) -> AlreadyExists:
    return AlreadyExists(f"A checkpoint tinker://{model_id}/{kind}/{name} exists already; choose another name")


def get(db: Connection, checkpoint_id: str) -> Checkpoint | None:
    """The checkpoint with this id, unless it was removed."""
    query = select(checkpoints).where(checkpoints.c.checkpoint_id == checkpoint_id, _live)
    return queries.one(db, query, Checkpoint)


def by_name(db: Connection, model_id: str, kind: CheckpointKind, name: str) -> Checkpoint | None:
    return queries.one(db, select(checkpoints).where(_named(model_id, kind, name)), Checkpoint)


def newest_in_run(db: Connection, run_id: str, kind: CheckpointKind, name: str, now: datetime) -> Checkpoint | None:
    """The last checkpoint that any model of a run has saved under this name and that has not expired."""
    query = select(checkpoints).where(_named_in_run(run_id, kind, name), _lasting(now))
    return queries.one(db, query.order_by(*_newest_first).limit(1), Checkpoint)


def of_owner(db: Connection, owner: str, page: Page, now: datetime) -> tuple[list[Checkpoint], int]:
    """One page of the owner's named checkpoints, newest first, and the number of all."""
    query = _listed().where(checkpoints.c.owner == owner, _lasting(now))
    newest = query.order_by(*_newest_first)
    return queries.many(db, newest.offset(page.offset).limit(page.limit), Checkpoint), queries.count(db, query)


def of_models(db: Connection, model_ids: Collection[str]) -> list[Checkpoint]:
    """Named checkpoints of these models, newest first."""
    query = _listed().where(checkpoints.c.model_id.in_(model_ids)).order_by(*_newest_first)
    return queries.many(db, query, Checkpoint)


def set_expiry(db: Connection, checkpoint_id: str, expires_at: datetime | None) -> None:
    db.execute(update(checkpoints).where(checkpoints.c.checkpoint_id == checkpoint_id).values(expires_at=expires_at))


def set_public(db: Connection, checkpoint_id: str, is_public: bool) -> None:
    db.execute(update(checkpoints).where(checkpoints.c.checkpoint_id == checkpoint_id).values(is_public=is_public))


def remove(db: Connection, checkpoint_id: str, now: datetime) -> None:
    _remove(db, and_(checkpoints.c.checkpoint_id == checkpoint_id, _live), now)


def expired(db: Connection, now: datetime) -> list[Checkpoint]:
    """Checkpoints that have expired and have not been removed."""
    return queries.many(db, select(checkpoints).where(checkpoints.c.expires_at <= now, _live), Checkpoint)


def remove_unnamed(db: Connection, session_id: str, now: datetime) -> None:
    """Remove the unnamed checkpoints behind the sampling clients of a session that has ended."""
    of_session = select(models.c.model_id).where(models.c.session_id == session_id)
    _remove(db, and_(checkpoints.c.model_id.in_(of_session), checkpoints.c.name.is_(None), _live), now)


def remove_superseded(db: Connection, model_id: str, now: datetime) -> None:
    """Remove all of a model's inflight saves but the newest."""
    inflight = select(sampling_sessions.c.checkpoint_id).where(sampling_sessions.c.inflight_model_id == model_id)
    newest = sessions.newest_inflight_save(model_id).scalar_subquery()
    _remove(db, and_(checkpoints.c.checkpoint_id.in_(inflight), checkpoints.c.checkpoint_id != newest, _live), now)


def removed(db: Connection, before: datetime) -> list[str]:
    """Ids of checkpoints that were removed by the time `before`."""
    return list(db.execute(select(checkpoints.c.checkpoint_id).where(checkpoints.c.removed_at <= before)).scalars())


def forget(db: Connection, checkpoint_ids: Collection[str]) -> None:
    """Drop the rows of checkpoints whose directories are gone."""
    db.execute(delete(checkpoints).where(checkpoints.c.checkpoint_id.in_(checkpoint_ids)))


def known_ids(db: Connection) -> set[str]:
    """Ids of all checkpoints, removed ones too; any other directory was left by a save that never finished."""
    return set(db.execute(select(checkpoints.c.checkpoint_id)).scalars())


def _lasting(now: datetime) -> ColumnElement[bool]:
    return or_(checkpoints.c.expires_at.is_(None), checkpoints.c.expires_at > now)


def _named(model_id: str, kind: CheckpointKind, name: str | None) -> ColumnElement[bool]:
    return and_(checkpoints.c.model_id == model_id, checkpoints.c.kind == kind, checkpoints.c.name == name, _live)


def _named_in_run(
    run_id: str | ScalarSelect[str | None], kind: CheckpointKind, name: str | None
) -> ColumnElement[bool]:
    of_run = select(models.c.model_id).where(models.c.run_id == run_id)
    return and_(checkpoints.c.model_id.in_(of_run), checkpoints.c.kind == kind, checkpoints.c.name == name, _live)


def _listed() -> Select:
    return select(checkpoints).where(_live, checkpoints.c.name.is_not(None))


def _remove(db: Connection, which: ColumnElement[bool], now: datetime) -> None:
    db.execute(update(checkpoints).where(which).values(removed_at=now))
