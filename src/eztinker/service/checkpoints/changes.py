"""Changes of saved checkpoints by their owner: deleted, given an end, shared. The audit log tells of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection

from eztinker.errors import CheckpointNotFound
from eztinker.oplog import audit, checkpoints
from eztinker.oplog.rows import Checkpoint
from eztinker.oplog.store import Store
from eztinker.service.checkpoints.checkpoints import Checkpoints, checkpoint_event
from eztinker.service.clock import Clock
from eztinker.service.validation import expiry


class CheckpointChanges:
    def __init__(self, store: Store, saved: Checkpoints, clock: Clock) -> None:
        self._store = store
        self._saved = saved
        self._clock = clock

    async def delete(self, owner: str, path: str) -> None:
        """Remove the checkpoint; whoever is loading it can finish."""
        checkpoint = await self._own(owner, path)
        now = self._clock.now()
        await self._change("delete", checkpoint, lambda db: checkpoints.remove(db, checkpoint.checkpoint_id, now))

    async def set_ttl(self, owner: str, path: str, ttl_seconds: int | None) -> None:
        """Let the checkpoint end that many seconds from now; None keeps it for ever."""
        checkpoint = await self._own(owner, path)
        expires_at = expiry(ttl_seconds, self._clock.now())
        await self._change(
            "ttl_set",
            checkpoint,
            lambda db: checkpoints.set_expiry(db, checkpoint.checkpoint_id, expires_at),
            ttl_seconds=ttl_seconds,
        )

    async def set_public(self, owner: str, path: str, *, is_public: bool) -> None:
        """Let every key of this server read the checkpoint, or its owner alone again. A repeat changes nothing."""
        checkpoint = await self._own(owner, path)
        if checkpoint.is_public is not is_public:
            await self._change(
                "publish" if is_public else "unpublish",
                checkpoint,
                lambda db: checkpoints.set_public(db, checkpoint.checkpoint_id, is_public),
            )

    async def _own(self, owner: str, path: str) -> Checkpoint:
        checkpoint, model = await self._saved.find(owner, path)
        if model.owner != owner:
            raise CheckpointNotFound(f"No checkpoint of yours at {path}; only its owner can change it")
        return checkpoint

    async def _change(
        self, action: str, checkpoint: Checkpoint, change: Callable[[Connection], None], **details: Any
    ) -> None:
        entry = checkpoint_event(action, checkpoint, by=checkpoint.owner, now=self._clock.now(), **details)

        def change_and_tell(db: Connection) -> None:
            change(db)
            audit.add(db, entry)

        await self._store.write(change_and_tell)
