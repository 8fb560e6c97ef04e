"""The end of checkpoints: what has expired or was removed, and what a dead process left half done."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Connection

from eztinker.checkpoints.checkpoint_files import remove_checkpoint
from eztinker.oplog import audit, checkpoints, operations, payloads, sessions
from eztinker.oplog.store import Store
from eztinker.protocol.frames import LoadModel, decode_payload
from eztinker.service.checkpoints.checkpoints import checkpoint_event
from eztinker.service.clock import Clock
from eztinker.types import OperationKind

REMOVAL_DELAY = timedelta(seconds=60)
"""Time for which the directory of a removed checkpoint stays, for loads that have been sent to the engine."""


class CheckpointCollector:
    def __init__(self, store: Store, root: Path, clock: Clock) -> None:
        self._store = store
        self._root = root
        self._clock = clock

    async def end_session(self, session_id: str) -> None:
        """Drop the unnamed snapshots behind the sampling clients of a session that is over."""
        now = self._clock.now()
        await self._store.write(lambda db: checkpoints.remove_unnamed(db, session_id, now))

    async def expire(self) -> None:
        """Remove what has expired."""
        now = self._clock.now()

        def expire(db: Connection) -> None:
            for checkpoint in checkpoints.expired(db, now):
                checkpoints.remove(db, checkpoint.checkpoint_id, now)
                audit.add(db, checkpoint_event("expire", checkpoint, by="server", now=now))

        await self._store.write(expire)

    async def collect_leftovers(self) -> None:
        """Remove directories that no row knows: saves that an earlier process never finished."""
        known = await self._store.read(checkpoints.known_ids)
        for directory in self._root.iterdir():
            if directory.name not in known:
                await asyncio.to_thread(remove_checkpoint, directory)

    async def remove_directories(self) -> None:
        """Remove directories of checkpoints removed a while ago, unless something may still read them."""
        removed_before = self._clock.now() - REMOVAL_DELAY

        def unused(db: Connection) -> list[str]:
            removed = checkpoints.removed(db, removed_before)
            used = in_use(db) if removed else set()
            return [checkpoint_id for checkpoint_id in removed if checkpoint_id not in used]

        gone = [
            checkpoint_id
            for checkpoint_id in await self._store.read(unused)
            if await asyncio.to_thread(remove_checkpoint, self._root / checkpoint_id)
        ]
        if gone:
            await self._store.write(lambda db: checkpoints.forget(db, gone))


def in_use(db: Connection) -> set[str]:
    """Ids of checkpoints that accepted samples are drawn from, or that runs load when they are recovered."""
    kept = payloads.contents(db, operations.kept_payloads(db, OperationKind.LOAD_WEIGHTS))
    commands = [decode_payload(content, op_id="", model_id="") for content in kept.values()]
    loaded = {Path(command.directory).name for command in commands if isinstance(command, LoadModel)}
    return loaded | sessions.sampled_checkpoint_ids(db)
