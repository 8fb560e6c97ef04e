"""Which directories of removed checkpoints may go."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from eztinker.oplog import operations, payloads
from eztinker.oplog.rows import Operation
from eztinker.oplog.store import Database, _open, _prepare_schema
from eztinker.protocol.frames import LoadModel, encode_payload
from eztinker.service.checkpoint_collector import _unused


def test_a_removed_checkpoint_stays_while_a_run_may_have_to_load_it_again():
    """It went a minute after its removal, and a run that had loaded it, with no snapshot since, could not come back."""
    engine = _open(Path(":memory:"))
    _prepare_schema(engine)
    load = LoadModel(op_id="op", model_id="run", directory="/checkpoints/loaded", with_optimizer=True)
    row = Operation(op_id="op", owner="me", lane="run", seq_id=3, kind="load_weights", created_at=datetime.now(UTC))
    (stored,) = Database(engine).commit([lambda db: operations.append(db, row, encode_payload(load))])
    assert stored.error is None
    assert Database(engine).read(lambda db: _unused(db, ["loaded", "other"])) == ["other"]
    Database(engine).commit([lambda db: payloads.release_covered(db, "run", 3)])
    assert Database(engine).read(lambda db: _unused(db, ["loaded", "other"])) == ["loaded", "other"]
