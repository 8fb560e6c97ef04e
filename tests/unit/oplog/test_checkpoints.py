"""Checkpoints in the log: one live one has a name, and which ones are listed."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import Connection

from eztinker.errors import AlreadyExists
from eztinker.oplog import checkpoints
from eztinker.oplog.rows import Checkpoint
from eztinker.oplog.store import Store
from eztinker.types import CheckpointKind, Page
from tests.unit.oplog.log_entries import NOW, checkpoint, with_run


def test_one_live_checkpoint_has_a_name_and_overwrite_replaces_it(store: Store):
    def save_twice(db: Connection) -> None:
        with_run(db)
        checkpoints.add(db, checkpoint("old", "a"), overwrite=False)

    asyncio.run(store.write(save_twice))
    with pytest.raises(AlreadyExists, match="tinker://run/weights/a exists already"):
        asyncio.run(store.write(lambda db: checkpoints.add(db, checkpoint("new", "a"), overwrite=False)))
    asyncio.run(store.write(lambda db: checkpoints.add(db, checkpoint("new", "a"), overwrite=True)))

    def found(db: Connection) -> tuple[Checkpoint | None, list[str]]:
        return checkpoints.by_name(db, "run", CheckpointKind.TRAINING, "a"), checkpoints.removed(db, NOW)

    live, removed = asyncio.run(store.read(found))
    assert live is not None
    assert (live.checkpoint_id, removed) == ("new", ["old"])


def test_unnamed_and_expired_checkpoints_are_not_listed(store: Store):
    def fill(db: Connection) -> tuple[list[Checkpoint], int]:
        with_run(db)
        checkpoints.add(db, checkpoint("unnamed", None, kind=CheckpointKind.SAMPLER), overwrite=False)
        checkpoints.add(db, checkpoint("expired", "b", expires_at=NOW), overwrite=False)
        checkpoints.add(db, checkpoint("kept", "c"), overwrite=False)
        return checkpoints.of_owner(db, "local", Page(offset=0, limit=10), NOW)

    rows, total = asyncio.run(store.write(fill))
    assert ([row.checkpoint_id for row in rows], total) == (["kept"], 1)


def test_what_is_removed_is_named_until_it_is_forgotten(store: Store):
    def remove(db: Connection) -> list[list[str]]:
        with_run(db)
        for name in ("a", "b"):
            checkpoints.add(db, checkpoint(name, name), overwrite=False)
        checkpoints.remove(db, "a", NOW)
        listed, _ = checkpoints.of_owner(db, "local", Page(offset=0, limit=10), NOW)
        return [[row.checkpoint_id for row in listed], checkpoints.removed(db, NOW)]

    assert asyncio.run(store.write(remove)) == [["b"], ["a"]]
