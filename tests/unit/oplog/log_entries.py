"""Operations, sessions, models and checkpoints to put into a log."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Connection

from eztinker.oplog import epochs, models, operations, sessions
from eztinker.oplog.rows import Checkpoint, Model, OperationRow, Session, Snapshot
from eztinker.types import CheckpointKind, OperationKind

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def operation(op_id: str, *, lane: str = "run", seq_id: int | None = None) -> OperationRow:
    return OperationRow(
        op_id=op_id, owner="local", lane=lane, seq_id=seq_id, kind=OperationKind.OPTIM_STEP, created_at=NOW
    )


def finish(db: Connection, op_id: str, result: bytes = b"{}", *, keeps_payload: bool = False) -> None:
    """Settle an operation as a new engine would."""
    operations.finish(
        db,
        op_id,
        epoch=epochs.begin(db, NOW),
        media_type="application/json",
        result=result,
        keeps_payload=keeps_payload,
        now=NOW,
    )


def session(session_id: str = "s", key: str | None = None) -> Session:
    return Session(
        session_id=session_id,
        owner="local",
        idempotency_key=key,
        tags=["a"],
        user_metadata={"n": 1},
        sdk_version="0.38.0",
        created_at=NOW,
    )


def model(model_id: str) -> Model:
    return Model(
        model_id=model_id,
        owner="local",
        session_id="s",
        base_model="tiny",
        rank=4,
        train_attn=True,
        train_mlp=True,
        train_unembed=False,
        user_metadata=None,
        created_at=NOW,
        last_request_at=NOW,
    )


def snapshot(seq_id: int) -> Snapshot:
    return Snapshot(
        snapshot_id=f"snapshot-{seq_id}", owner="local", model_id="run", seq_id=seq_id, size_bytes=1, created_at=NOW
    )


def checkpoint(checkpoint_id: str, name: str | None, **fields: object) -> Checkpoint:
    given = {
        "owner": "local",
        "model_id": "run",
        "kind": CheckpointKind.TRAINING,
        "size_bytes": 10,
        "step": 1,
        "user_metadata": {"k": "v"},
        "created_at": NOW,
        "expires_at": None,
    } | fields
    return Checkpoint(checkpoint_id=checkpoint_id, name=name, **given)  # pyright: ignore[reportArgumentType]


def with_run(db: Connection) -> None:
    sessions.add_session(db, session())
    models.add(db, model("run"))
