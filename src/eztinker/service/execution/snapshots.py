"""Snapshots: the whole state of a run on disk now and then, so that bringing it back replays little."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

from sqlalchemy import Connection

from eztinker.checkpoints.checkpoint_files import remove_checkpoint
from eztinker.oplog import epochs, models, snapshots
from eztinker.oplog.rows import ModelStatus, Snapshot
from eztinker.oplog.store import Store
from eztinker.protocol.frames import CheckpointDone, Outcome, SaveCheckpoint
from eztinker.service.clock import Clock
from eztinker.service.execution.operation import Operation
from eztinker.types import CheckpointKind, OperationKind


class Pace:
    """Decides when the next snapshot of a run is due: after so many changes, or so long after the last one."""

    def __init__(self, clock: Clock, *, max_changes: int, max_seconds: float) -> None:
        self._clock = clock
        self._max_changes = max_changes
        self._max_seconds = max_seconds
        self.restart()

    def restart(self) -> None:
        """Begin to count anew, as a snapshot is being taken."""
        self.num_changes = 0
        self._is_hurried = False
        self._started_at = self._clock.monotonic()

    def hurry(self) -> None:
        """Make the next snapshot due at once."""
        self._is_hurried = True

    @property
    def is_due(self) -> bool:
        is_late = self._clock.monotonic() - self._started_at >= self._max_seconds
        return self._is_hurried or self.num_changes >= self._max_changes or (self.num_changes > 0 and is_late)


class Snapshots:
    """The snapshots under one directory, each in a folder named by its id."""

    def __init__(self, store: Store, root: Path, clock: Clock, *, max_changes: int, max_seconds: float) -> None:
        self._store = store
        self._root = root
        self._clock = clock
        self._max_changes = max_changes
        self._max_seconds = max_seconds
        self._being_written: set[str] = set()

    def pace(self) -> Pace:
        return Pace(self._clock, max_changes=self._max_changes, max_seconds=self._max_seconds)

    def operation(self, model_id: str, seq_id: int, *, owner: str) -> Operation:
        """Make the operation that writes the state of a run after operation `seq_id`; end it with `add` or `drop`."""
        snapshot_id = secrets.token_hex(16)
        self._being_written.add(snapshot_id)
        command = SaveCheckpoint(
            op_id=snapshot_id,
            model_id=model_id,
            kind=CheckpointKind.TRAINING,
            directory=str(self._root / snapshot_id),
            tinker_path=f"snapshot of {model_id} after operation {seq_id}",
            with_gradient=True,
        )
        return Operation(
            op_id=snapshot_id, owner=owner, lane=model_id, seq_id=None, kind=OperationKind.SAVE_WEIGHTS, work=command
        )

    async def add(self, operation: Operation, *, seq_id: int, answer: Outcome) -> None:
        """Recover from this snapshot from now on, unless its run is over.

        The outcomes of all operations in it must be in the log.

        Raises:
            StaleEpoch: the engine that wrote it has been replaced.
        """
        epoch = operation.epoch
        assert isinstance(answer, CheckpointDone)
        assert epoch is not None
        snapshot = Snapshot(
            snapshot_id=operation.op_id,
            owner=operation.owner,
            model_id=operation.lane,
            seq_id=seq_id,
            size_bytes=answer.result.size_bytes,
            created_at=self._clock.now(),
        )

        def store(db: Connection) -> None:
            epochs.require_newest(db, epoch)
            model = models.get(db, snapshot.model_id)
            if model is not None and model.status is ModelStatus.ACTIVE:  # else all that recovery needs is gone
                snapshots.add(db, snapshot)

        await self._store.write(store)

    def drop(self, operation: Operation) -> None:
        """Let go of an operation that has ended: what it wrote and was not added may be removed."""
        self._being_written.discard(operation.op_id)

    async def sweep(self) -> None:
        """Remove the directories that no row knows and nobody writes."""
        found = {path.name for path in self._root.iterdir() if not self._is_being_written(path.name)}
        known = await self._store.read(snapshots.known_ids)
        for name in found - known:
            await asyncio.to_thread(remove_checkpoint, self._root / name)

    def _is_being_written(self, name: str) -> bool:
        return any(snapshot_id in name for snapshot_id in self._being_written)  # the name may have affixes by then
