"""The end of checkpoints: what has expired or was removed, and what a dead process left half done."""

from __future__ import annotations

import asyncio
import shutil
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection

from eztinker.oplog import audit, checkpoints, payloads
from eztinker.oplog.store import Store
from eztinker.protocol.frames import LoadModel, decode_payload
from eztinker.service.checkpoints import checkpoint_event
from eztinker.service.clock import Clock
from eztinker.service.plans import LOAD_WEIGHTS

REMOVAL_DELAY = timedelta(seconds=60)
"""How long the directory of a removed checkpoint stays, for loads that have been sent to the engine."""


class CheckpointCollector:
    def __init__(self, store: Store, root: Path, clock: Clock) -> None:
        self._store = store
        self._root = root
        self._clock = clock

    async def end_session(self, session_id: str) -> None:
        """Drop the unnamed snapshots behind the sampling clients of a session that is over."""
        now = self._clock.now()
        await self._store.write(lambda db: checkpoints.remove_unnamed(db, session_id, now))

    async def sweep(self) -> None:
        """Remove what has expired, and the directories of what was removed a while ago."""
        now = self._clock.now()

        def expire(db: Connection) -> None:
            for checkpoint in checkpoints.expired(db, now):
                checkpoints.remove(db, checkpoint.checkpoint_id, now)
                audit.add(db, checkpoint_event("expire", checkpoint, by="server", now=now))

        await self._store.write(expire)
        await self._remove_directories(now - REMOVAL_DELAY)

    async def collect_leftovers(self) -> None:
        """Remove directories that no row knows: saves that an earlier process never finished."""
        known = await self._store.read(checkpoints.known_ids)
        for directory in self._root.iterdir():
            if directory.name not in known:
                await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    async def _remove_directories(self, removed_before: datetime) -> None:
        removed = await self._store.read(lambda db: _unused(db, checkpoints.removed(db, removed_before)))
        for checkpoint_id in removed:
            await asyncio.to_thread(shutil.rmtree, self._root / checkpoint_id, ignore_errors=True)
        if removed:
            await self._store.write(lambda db: checkpoints.forget(db, removed))


def _unused(db: Connection, checkpoint_ids: list[str]) -> list[str]:
    """Those that no load needs which is still to be run, or to be run again when its run is brought back."""
    if not checkpoint_ids:
        return []
    loads = [decode_payload(content, op_id="", model_id="") for content in payloads.held_by(db, LOAD_WEIGHTS)]
    needed = {Path(load.directory).name for load in loads if isinstance(load, LoadModel)}
    return [checkpoint_id for checkpoint_id in checkpoint_ids if checkpoint_id not in needed]
