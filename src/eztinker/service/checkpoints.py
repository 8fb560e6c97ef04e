"""Saved checkpoints: finding, listing, ageing, deleting. The engine writes them; here are only rows and directories."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from datetime import datetime, timedelta
from pathlib import Path

from eztinker.errors import CheckpointNotFound, InvalidInput
from eztinker.oplog import checkpoints, models
from eztinker.oplog.rows import Checkpoint, Model
from eztinker.oplog.store import Store
from eztinker.service.access import owned
from eztinker.service.clock import Clock
from eztinker.service.validation import TinkerPath, expiry, parse_tinker_path
from eztinker.types import CheckpointKind, Page

REMOVAL_DELAY = timedelta(seconds=60)
"""How long the directory of a removed checkpoint stays, for loads that have been sent to the engine."""


class Checkpoints:
    """The checkpoints under one directory, each in a folder named by its id."""

    def __init__(self, store: Store, root: Path, clock: Clock) -> None:
        self._store = store
        self._root = root
        self._clock = clock

    def new_id(self) -> str:
        return secrets.token_hex(16)

    def directory(self, checkpoint_id: str) -> Path:
        return self._root / checkpoint_id

    async def find(self, owner: str, path: str) -> tuple[Checkpoint, Model]:
        """The checkpoint at a tinker:// path and the run that saved it.

        Raises:
            CheckpointNotFound: the owner has none there; the message lists what the run has.
        """
        wanted = parse_tinker_path(path)

        def query(db):
            return checkpoints.by_name(db, wanted.model_id, wanted.kind, wanted.name), models.get(db, wanted.model_id)

        checkpoint, model = await self._store.read(query)
        if model is None or model.owner != owner:
            raise CheckpointNotFound(f"No checkpoint at {path}: there is no training run {wanted.model_id!r}")
        if checkpoint is None:
            raise await self._nothing_there(wanted)
        return checkpoint, model

    async def loadable(self, owner: str, path: str, *, with_optimizer: bool) -> tuple[Checkpoint, Model]:
        """A checkpoint to continue training from.

        Raises:
            InvalidInput: it lacks the optimizer that was asked for, or is a copy for other programs.
        """
        checkpoint, model = await self.find(owner, path)
        if checkpoint.kind is CheckpointKind.EXTERNAL:
            raise InvalidInput(f"{path} is an export for other programs; load a training checkpoint")
        if with_optimizer and checkpoint.kind is not CheckpointKind.TRAINING:
            raise InvalidInput(f"{path} has no optimizer state; load it without, or load a training checkpoint")
        return checkpoint, model

    async def of_run(self, owner: str, model_id: str) -> list[Checkpoint]:
        """The run's named checkpoints, newest first."""
        model, rows = await self._store.read(
            lambda db: (models.get(db, model_id), checkpoints.of_models(db, [model_id]))
        )
        owned(model, owner, f"training run {model_id!r}")
        return rows

    async def of_owner(self, owner: str, page: Page) -> tuple[list[Checkpoint], int]:
        """The owner's named checkpoints, newest first, and how many there are."""
        return await self._store.read(lambda db: checkpoints.of_owner(db, owner, page))

    async def by_id(self, checkpoint_id: str) -> Checkpoint | None:
        return await self._store.read(lambda db: checkpoints.get(db, checkpoint_id))

    async def is_taken(self, model_id: str, kind: CheckpointKind, name: str) -> bool:
        return await self._store.read(lambda db: checkpoints.by_name(db, model_id, kind, name)) is not None

    async def delete(self, owner: str, path: str) -> None:
        checkpoint, _ = await self.find(owner, path)
        now = self._clock.now()
        await self._store.write(lambda db: checkpoints.remove(db, checkpoint.checkpoint_id, now))

    async def set_ttl(self, owner: str, path: str, ttl_seconds: int | None) -> None:
        """Let the checkpoint end that many seconds from now; None keeps it for ever."""
        checkpoint, _ = await self.find(owner, path)
        expires_at = expiry(ttl_seconds, self._clock.now())
        await self._store.write(lambda db: checkpoints.set_expiry(db, checkpoint.checkpoint_id, expires_at))

    def files(self, checkpoint: Checkpoint) -> list[Path]:
        """The files of an exported checkpoint that other programs read."""
        return sorted(
            path for path in self.directory(checkpoint.checkpoint_id).iterdir() if path.name in EXPORTED_FILES
        )

    async def end_session(self, session_id: str) -> None:
        """Drop the unnamed snapshots behind the sampling clients of a session that is over."""
        now = self._clock.now()
        await self._store.write(lambda db: checkpoints.remove_unnamed(db, session_id, now))

    async def sweep(self) -> None:
        """Remove what has expired, and the directories of what was removed a while ago."""
        now = self._clock.now()
        await self._store.write(lambda db: checkpoints.remove_expired(db, now))
        await self._remove_directories(now - REMOVAL_DELAY)

    async def collect_leftovers(self) -> None:
        """Remove directories that no row knows: saves that an earlier process never finished."""
        known = await self._store.read(checkpoints.known_ids)
        for directory in self._root.iterdir():
            if directory.name not in known:
                await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    async def _remove_directories(self, removed_before: datetime) -> None:
        removed = await self._store.read(lambda db: checkpoints.removed(db, removed_before))
        for checkpoint_id in removed:
            await asyncio.to_thread(shutil.rmtree, self.directory(checkpoint_id), ignore_errors=True)
        if removed:
            await self._store.write(lambda db: checkpoints.forget(db, removed))

    async def _nothing_there(self, wanted: TinkerPath) -> CheckpointNotFound:
        rows = await self._store.read(lambda db: checkpoints.of_models(db, [wanted.model_id]))
        names = [row.name for row in rows if row.kind is wanted.kind and row.name is not None][:10]
        there = f"this run has {', '.join(names)}" if names else f"this run has no {wanted.kind} yet"
        return CheckpointNotFound(f"No checkpoint at {wanted}; {there}")


EXPORTED_FILES = ("adapter_config.json", "adapter_model.safetensors")


def tinker_path(checkpoint: Checkpoint) -> str:
    return str(TinkerPath(model_id=checkpoint.model_id, kind=checkpoint.kind, name=checkpoint.name or "unnamed"))
