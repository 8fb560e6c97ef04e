"""The end of training runs whose session is over: nobody can train them any more, and what they learned is kept.

A client that vanished, or ended in an error, had no chance to save. Its run gets a training checkpoint first, listed
like any other, from which a later client goes on. A client that finished as it wished has saved what it wanted to.

Everything is decided from the log, in rounds: a server that starts again goes on where the last one was.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection

from eztinker.oplog import models, operations, sessions
from eztinker.oplog.rows import Checkpoint, Model, ModelStatus, OperationRow, OperationStatus, UsageKind
from eztinker.oplog.store import Store
from eztinker.protocol.frames import SaveCheckpoint
from eztinker.service.accounts.usage import used_by_run
from eztinker.service.checkpoints.checkpoints import Checkpoints, tinker_path
from eztinker.service.clock import Clock
from eztinker.service.execution.operation import Operation, new_op_id
from eztinker.service.execution.plans import SavePlan
from eztinker.service.execution.run_lanes import RunLanes
from eztinker.service.training.training_runs import TrainingRuns
from eztinker.types import CheckpointKind, OperationKind

log = logging.getLogger(__name__)

PARKED = "parked"
"""Name of the checkpoint, with a random suffix if the client has used the name itself."""
LIFETIME = timedelta(days=30)
"""Lifetime of the checkpoint, which its owner can change."""
PAUSES = [timedelta(minutes=minutes) for minutes in (1, 5, 15, 60)]
"""Pauses between tries of a save that fails; the last one repeats."""


class Parking:
    """Saves what runs of ended sessions have not saved, and unloads them."""

    def __init__(self, store: Store, runs: TrainingRuns, lanes: RunLanes, saved: Checkpoints, clock: Clock) -> None:
        self._store = store
        self._runs = runs
        self._lanes = lanes
        self._saved = saved
        self._clock = clock
        self._round = asyncio.Lock()

    async def end_runs(self, session_id: str) -> None:
        """One round over a session that has ended: save what must be, and take out the runs that need no save."""
        async with self._round:
            for model in await self._store.read(lambda db: models.of_session(db, session_id)):
                if model.status is ModelStatus.ACTIVE:
                    await self._end_run(model)

    async def _end_run(self, model: Model) -> None:
        tries = await self._store.read(lambda db: operations.own_saves(db, model.model_id))
        if tries and tries[-1].status is OperationStatus.PENDING:
            return
        if not await self._store.read(lambda db: _must_be_saved(db, model)):
            await self._runs.take_out(model)
        elif self._clock.now() >= _next_try(tries):
            await self._save(model)

    async def _save(self, model: Model) -> None:
        checkpoint = await self._planned(model)
        op_id = new_op_id()
        path = tinker_path(checkpoint)
        log.info("What a client left unsaved goes to %s", path, extra={"event": "run_parked"})
        save = Operation(
            op_id=op_id,
            owner=model.owner,
            lane=model.model_id,
            seq_id=None,
            kind=OperationKind.SAVE_WEIGHTS,
            work=SaveCheckpoint(
                op_id=op_id,
                model_id=model.model_id,
                kind=checkpoint.kind,
                directory=str(self._saved.directory(checkpoint.checkpoint_id)),
                tinker_path=path,
            ),
            plan=SavePlan(
                kind=OperationKind.SAVE_WEIGHTS,
                checkpoint=checkpoint,
                overwrite=False,
                session_id=model.session_id,
                base_model=model.base_model,
                inflight_seq_id=None,
                used=used_by_run(model, UsageKind.CHECKPOINT, 1, checkpoint.created_at),
                saved_by="server",
            ),
            needs_room=False,
        )
        await self._lanes.submit(save)

    async def _planned(self, model: Model) -> Checkpoint:
        """Make the row of the checkpoint, under a name that is free."""
        now = self._clock.now()
        is_taken = await self._saved.is_taken(model.model_id, CheckpointKind.TRAINING, PARKED)
        return Checkpoint(
            checkpoint_id=self._saved.new_id(),
            owner=model.owner,
            model_id=model.model_id,
            kind=CheckpointKind.TRAINING,
            name=f"{PARKED}-{secrets.token_hex(4)}" if is_taken else PARKED,
            size_bytes=0,
            step=0,
            user_metadata=None,
            created_at=now,
            expires_at=now + LIFETIME,
        )


def _must_be_saved(db: Connection, model: Model) -> bool:
    session = sessions.session(db, model.session_id)
    assert session is not None
    return session.end_reason != "success" and operations.has_unsaved_steps(db, model.model_id)


def _next_try(tries: list[OperationRow]) -> datetime:
    """Earliest time of the next save, after those that have failed."""
    failed_at = tries[-1].finished_at if tries else None
    if failed_at is None:
        return datetime.min.replace(tzinfo=UTC)
    return failed_at + PAUSES[min(len(tries), len(PAUSES)) - 1]
