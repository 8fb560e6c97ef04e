"""Saved checkpoints: finding, listing and reading them. The engine writes them; here are only rows and directories."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection

from eztinker.checkpoints.checkpoint_files import read_manifest, verify_checkpoint, verify_part
from eztinker.errors import CheckpointDamaged, CheckpointNotFound, InvalidInput
from eztinker.oplog import audit, checkpoints, models
from eztinker.oplog.rows import AuditEntry, Checkpoint, Model
from eztinker.oplog.store import Store
from eztinker.service.accounts.access import owned
from eztinker.service.clock import Clock
from eztinker.service.validation import TinkerPath, parse_tinker_path
from eztinker.types import CheckpointKind, Page

Purpose = Literal["load", "sample", "download", "copy"]


class Checkpoints:
    """The checkpoints under one directory, each in a folder named by its id.

    Its owner may do anything with a checkpoint. Others may read it if it is public, or with a key of the owner's, which
    they pass as an access token: the `lender` of a method is whom that key belongs to.
    """

    def __init__(self, store: Store, root: Path, clock: Clock) -> None:
        self._store = store
        self._root = root
        self._clock = clock

    def new_id(self) -> str:
        return secrets.token_hex(16)

    def directory(self, checkpoint_id: str) -> Path:
        return self._root / checkpoint_id

    async def find(self, reader: str, path: str, *, lender: str | None = None) -> tuple[Checkpoint, Model]:
        """Find the checkpoint at a tinker:// path, and the model that saved it.

        The path may name a model, whose own checkpoint goes before others of its run, or the run by its id or name;
        then it is the newest of that name.

        Raises:
            CheckpointNotFound: the reader may see none there; the message lists what their run has.
        """
        wanted = parse_tinker_path(path)
        owners = [reader] if lender is None else [reader, lender]
        now = self._clock.now()
        checkpoint, model = await self._store.read(lambda db: _look_up(db, wanted, owners, now))
        if checkpoint is not None and checkpoint.has_expired(self._clock.now()):
            checkpoint = None  # while it was looked up
        if model is not None and checkpoint is not None and (checkpoint.is_public or model.owner in owners):
            return checkpoint, model
        if model is None or model.owner not in owners:
            raise CheckpointNotFound(f"No checkpoint at {path}: there is no training run {wanted.model_id!r}")
        raise await self._nothing_there(wanted, model)

    async def open(
        self, reader: str, path: str, purpose: Purpose, *, lender: str | None = None
    ) -> tuple[Checkpoint, Model]:
        """Find a checkpoint to read: verifies the hash of every file, and records the read in the audit log.

        Raises:
            CheckpointDamaged: a file is not as it was written; the message offers the newest older one that is whole.
        """
        checkpoint, model = await self.find(reader, path, lender=lender)
        try:
            await asyncio.to_thread(verify_checkpoint, self.directory(checkpoint.checkpoint_id))
        except CheckpointDamaged as error:
            raise CheckpointDamaged(f"{error.message}; {await self._offer_older(checkpoint, model)}") from error
        entry = checkpoint_event("read", checkpoint, by=reader, now=self._clock.now(), purpose=purpose)
        await self._store.write(lambda db: audit.add(db, entry))
        return checkpoint, model

    async def loadable(
        self, reader: str, path: str, *, with_optimizer: bool, lender: str | None = None
    ) -> tuple[Checkpoint, Model]:
        """Find a checkpoint to continue training from.

        Raises:
            InvalidInput: it lacks the optimizer that was asked for, or is a copy for other programs.
        """
        kind = parse_tinker_path(path).kind
        if kind is CheckpointKind.EXTERNAL:
            raise InvalidInput(f"{path} is an export for other programs; load a training checkpoint")
        if with_optimizer and kind is not CheckpointKind.TRAINING:
            raise InvalidInput(f"{path} has no optimizer state; load it without, or load a training checkpoint")
        return await self.open(reader, path, "load", lender=lender)

    async def of_run(self, reader: str, model_id: str) -> list[Checkpoint]:
        """The named checkpoints of a model or of a whole run, newest first; of another owner's the public ones.

        Raises:
            NotFound: there is no such run, or nothing of it is for the reader.
        """

        def query(db: Connection) -> tuple[Model | None, list[Checkpoint]]:
            found = models.resolve(db, model_id, [reader])
            model_ids = [model.model_id for model in found] or [model_id]  # asked as well if there is none
            return (found[0] if found else None), checkpoints.of_models(db, model_ids)

        model, rows = await self._store.read(query)
        visible = visible_to(reader, rows, self._clock.now())
        if not visible:
            owned(model, reader, f"training run {model_id!r}")
        return visible

    async def of_owner(self, owner: str, page: Page) -> tuple[list[Checkpoint], int]:
        """The owner's named checkpoints, newest first, and how many there are."""
        now = self._clock.now()
        return await self._store.read(lambda db: checkpoints.of_owner(db, owner, page, now))

    async def base_models(self, rows: Iterable[Checkpoint]) -> dict[str, str]:
        """The base models of these checkpoints, by the id of their run."""
        model_ids = {row.model_id for row in rows}
        return await self._store.read(lambda db: models.base_models(db, model_ids))

    async def is_taken(self, model_id: str, kind: CheckpointKind, name: str) -> bool:
        row = await self._store.read(lambda db: checkpoints.by_name(db, model_id, kind, name))
        return row is not None and not row.has_expired(self._clock.now())

    async def exported_files(self, reader: str, path: str) -> tuple[Checkpoint, list[str]]:
        """Find an export that is about to be downloaded, and the names of its files.

        Raises:
            InvalidInput: it is a checkpoint of another kind.
        """
        if parse_tinker_path(path).kind is not CheckpointKind.EXTERNAL:
            raise InvalidInput(f"{path} is not an export; save one with save_weights_external")
        checkpoint, _ = await self.open(reader, path, "download")
        manifest = await asyncio.to_thread(read_manifest, self.directory(checkpoint.checkpoint_id))
        return checkpoint, sorted(manifest.parts)

    async def linked(self, checkpoint_id: str) -> Checkpoint:
        """Find the checkpoint that a signed link names.

        Raises:
            CheckpointNotFound: it has been deleted or has expired since.
        """
        checkpoint = await self._store.read(lambda db: checkpoints.get(db, checkpoint_id))
        if checkpoint is None or checkpoint.has_expired(self._clock.now()):
            raise CheckpointNotFound("This checkpoint was deleted or has expired")
        return checkpoint

    async def file(self, checkpoint: Checkpoint, name: str) -> Path:
        """Find one file of a checkpoint, and verify its hash.

        Raises:
            CheckpointDamaged: one is not.
            CheckpointNotFound: it has no such file.
        """
        return await asyncio.to_thread(verify_part, self.directory(checkpoint.checkpoint_id), name)

    async def _saved_by(self, model: Model, kind: CheckpointKind) -> list[Checkpoint]:
        """Named checkpoints of one kind of the model's run, newest first."""
        now = self._clock.now()
        rows = await self._store.read(
            lambda db: checkpoints.of_models(db, [each.model_id for each in models.of_run(db, model.run_id or "")])
        )
        return [row for row in rows if row.kind is kind and not row.has_expired(now)]

    async def _offer_older(self, damaged: Checkpoint, model: Model) -> str:
        for row in await self._saved_by(model, damaged.kind):
            if row.created_at < damaged.created_at:
                with contextlib.suppress(CheckpointDamaged, CheckpointNotFound):
                    await asyncio.to_thread(verify_checkpoint, self.directory(row.checkpoint_id))
                    return f"the newest one before it that is whole is {tinker_path(row)}"
        return f"this run has no older {damaged.kind} that is whole"

    async def _nothing_there(self, wanted: TinkerPath, model: Model) -> CheckpointNotFound:
        rows = await self._saved_by(model, wanted.kind)
        names = list(dict.fromkeys(row.name for row in rows if row.name is not None))[:10]
        there = f"this run has {', '.join(names)}" if names else f"this run has no {wanted.kind} yet"
        return CheckpointNotFound(f"No checkpoint at {wanted}; {there}")


def _look_up(
    db: Connection, wanted: TinkerPath, owners: list[str], now: datetime
) -> tuple[Checkpoint | None, Model | None]:
    """Find the checkpoint that a path means, if it is there, and the model that saved it or would have.

    The log is asked the same for a run that is not there as for what the reader may not see.
    """
    found = models.resolve(db, wanted.model_id, owners)
    checkpoint = checkpoints.by_name(db, wanted.model_id, wanted.kind, wanted.name)
    is_visible = checkpoint is not None and (checkpoint.is_public or checkpoint.owner in owners)
    is_there = checkpoint is not None and not checkpoint.has_expired(now)
    if not (is_visible and is_there):
        run_id = found[0].run_id if found else None
        newest = checkpoints.newest_in_run(db, run_id or "", wanted.kind, wanted.name, now)
        checkpoint = checkpoint if is_there else newest
    holder = models.get(db, wanted.model_id if checkpoint is None else checkpoint.model_id)
    return checkpoint, found[0] if checkpoint is None and found else holder


def visible_to(reader: str, rows: Iterable[Checkpoint], now: datetime) -> list[Checkpoint]:
    """Keep the rows that are the reader's or public, and have not expired."""
    return [row for row in rows if (row.is_public or row.owner == reader) and not row.has_expired(now)]


def checkpoint_event(action: str, checkpoint: Checkpoint, *, by: str, now: datetime, **details: Any) -> AuditEntry:
    """Make a line of the audit log, which is stored together with the change."""
    about = {"by": by, "model_id": checkpoint.model_id, "tinker_path": tinker_path(checkpoint)}
    return AuditEntry(owner=checkpoint.owner, event=f"checkpoint_{action}", details=about | details, created_at=now)


def tinker_path(checkpoint: Checkpoint) -> str:
    return str(TinkerPath(model_id=checkpoint.model_id, kind=checkpoint.kind, name=checkpoint.name or "unnamed"))
