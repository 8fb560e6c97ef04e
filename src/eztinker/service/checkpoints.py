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

from eztinker.checkpoints.store import read_manifest, verify_checkpoint, verify_part
from eztinker.errors import CheckpointDamaged, CheckpointNotFound, InvalidInput
from eztinker.oplog import audit, checkpoints, models
from eztinker.oplog.rows import AuditEntry, Checkpoint, Model
from eztinker.oplog.store import Store
from eztinker.service.access import owned
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
        """The checkpoint at a tinker:// path and the run that saved it.

        Raises:
            CheckpointNotFound: the reader may see none there; the message lists what their run has.
        """
        wanted = parse_tinker_path(path)

        def query(db: Connection) -> tuple[Checkpoint | None, Model | None]:
            return checkpoints.by_name(db, wanted.model_id, wanted.kind, wanted.name), models.get(db, wanted.model_id)

        checkpoint, model = await self._store.read(query)
        if checkpoint is not None and checkpoint.has_expired(self._clock.now()):
            checkpoint = None
        if model is not None and checkpoint is not None and (checkpoint.is_public or model.owner in (reader, lender)):
            return checkpoint, model
        if model is None or model.owner not in (reader, lender):
            raise CheckpointNotFound(f"No checkpoint at {path}: there is no training run {wanted.model_id!r}")
        raise await self._nothing_there(wanted)

    async def open(
        self, reader: str, path: str, purpose: Purpose, *, lender: str | None = None
    ) -> tuple[Checkpoint, Model]:
        """The same, to be read from now: every byte of it is as it was written, and the audit log has a line.

        Raises:
            CheckpointDamaged: a file is not as it was written; the message offers the newest older one that is whole.
        """
        checkpoint, model = await self.find(reader, path, lender=lender)
        try:
            await asyncio.to_thread(verify_checkpoint, self.directory(checkpoint.checkpoint_id))
        except CheckpointDamaged as error:
            raise CheckpointDamaged(f"{error.message}; {await self._offer_older(checkpoint)}") from error
        entry = checkpoint_event("read", checkpoint, by=reader, now=self._clock.now(), purpose=purpose)
        await self._store.write(lambda db: audit.add(db, entry))
        return checkpoint, model

    async def loadable(
        self, reader: str, path: str, *, with_optimizer: bool, lender: str | None = None
    ) -> tuple[Checkpoint, Model]:
        """A checkpoint to continue training from.

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
        """The run's named checkpoints, newest first; of another owner's run the public ones.

        Raises:
            NotFound: there is no such run, or nothing of it is for the reader.
        """
        model, rows = await self._store.read(
            lambda db: (models.get(db, model_id), checkpoints.of_models(db, [model_id]))
        )
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
        """An export that is about to be downloaded, and the names of its files.

        Raises:
            InvalidInput: it is a checkpoint of another kind.
        """
        if parse_tinker_path(path).kind is not CheckpointKind.EXTERNAL:
            raise InvalidInput(f"{path} is not an export; save one with save_weights_external")
        checkpoint, _ = await self.open(reader, path, "download")
        manifest = await asyncio.to_thread(read_manifest, self.directory(checkpoint.checkpoint_id))
        return checkpoint, sorted(manifest.parts)

    async def linked(self, checkpoint_id: str) -> Checkpoint:
        """The checkpoint that a signed link names.

        Raises:
            CheckpointNotFound: it has been deleted or has expired since.
        """
        checkpoint = await self._store.read(lambda db: checkpoints.get(db, checkpoint_id))
        if checkpoint is None or checkpoint.has_expired(self._clock.now()):
            raise CheckpointNotFound("This checkpoint was deleted or has expired")
        return checkpoint

    async def file(self, checkpoint: Checkpoint, name: str) -> Path:
        """One file of a checkpoint, in which every byte is as it was written.

        Raises:
            CheckpointDamaged: one is not.
            CheckpointNotFound: it has no such file.
        """
        return await asyncio.to_thread(verify_part, self.directory(checkpoint.checkpoint_id), name)

    async def _saved_by(self, model_id: str, kind: CheckpointKind) -> list[Checkpoint]:
        """The run's named checkpoints of one kind, newest first."""
        now = self._clock.now()
        rows = await self._store.read(lambda db: checkpoints.of_models(db, [model_id]))
        return [row for row in rows if row.kind is kind and not row.has_expired(now)]

    async def _offer_older(self, damaged: Checkpoint) -> str:
        for row in await self._saved_by(damaged.model_id, damaged.kind):
            if row.created_at < damaged.created_at:
                with contextlib.suppress(CheckpointDamaged, CheckpointNotFound):
                    await asyncio.to_thread(verify_checkpoint, self.directory(row.checkpoint_id))
                    return f"the newest one before it that is whole is {tinker_path(row)}"
        return f"this run has no older {damaged.kind} that is whole"

    async def _nothing_there(self, wanted: TinkerPath) -> CheckpointNotFound:
        rows = await self._saved_by(wanted.model_id, wanted.kind)
        names = [row.name for row in rows if row.name is not None][:10]
        there = f"this run has {', '.join(names)}" if names else f"this run has no {wanted.kind} yet"
        return CheckpointNotFound(f"No checkpoint at {wanted}; {there}")


def visible_to(reader: str, rows: Iterable[Checkpoint], now: datetime) -> list[Checkpoint]:
    """Those of `rows` that are the reader's or public, and have not expired."""
    return [row for row in rows if (row.is_public or row.owner == reader) and not row.has_expired(now)]


def checkpoint_event(action: str, checkpoint: Checkpoint, *, by: str, now: datetime, **details: Any) -> AuditEntry:
    """A line for the audit log, stored together with the deed."""
    about = {"by": by, "model_id": checkpoint.model_id, "tinker_path": tinker_path(checkpoint)}
    return AuditEntry(owner=checkpoint.owner, event=f"checkpoint_{action}", details=about | details, created_at=now)


def tinker_path(checkpoint: Checkpoint) -> str:
    return str(TinkerPath(model_id=checkpoint.model_id, kind=checkpoint.kind, name=checkpoint.name or "unnamed"))
