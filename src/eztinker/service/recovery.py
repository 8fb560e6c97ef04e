"""What becomes of work whose process died. Every such decision is made here."""

from __future__ import annotations

from sqlalchemy import Connection

from eztinker.errors import EngineLost
from eztinker.oplog import checkpoints, models, operations
from eztinker.oplog.rows import Failure, ModelStatus
from eztinker.oplog.store import Store
from eztinker.service.clock import Clock
from eztinker.types import CheckpointKind

SAMPLE = "sample"
"""The kind of operation that changes nothing and can be asked for again."""


async def recover_run(store: Store, model_id: str) -> EngineLost:
    """Decide how a training run goes on whose engine is gone.

    Its weights since the last save went with the engine, so the run ends here, and the error says from where a new
    one can go on.
    """
    return await store.write(lambda db: _end_run(db, model_id))


async def recover_log(store: Store, clock: Clock) -> None:
    """Settle everything that an earlier server process left unfinished."""
    now = clock.now()

    def recover(db: Connection) -> None:
        for operation in operations.pending(db):
            if operation.kind == SAMPLE:
                operations.lose(db, operation.op_id, now)
            else:
                operations.fail(db, operation.op_id, Failure.of(_end_run(db, operation.lane)), now)
        models.lose_all_active(db)

    await store.write(recover)


def _end_run(db: Connection, model_id: str) -> EngineLost:
    models.set_status(db, [model_id], ModelStatus.LOST)
    saved = [row for row in checkpoints.of_models(db, [model_id]) if row.kind is CheckpointKind.TRAINING]
    if not saved:
        return EngineLost(
            f"The engine that held the training run {model_id} stopped, and the run had no saved checkpoint; "
            "create a new training client and start again"
        )
    return EngineLost(
        f"The engine that held the training run {model_id} stopped; go on from its newest checkpoint with "
        f"create_training_client_from_state_with_optimizer('tinker://{model_id}/{CheckpointKind.TRAINING}/{saved[0].name}')"
    )
