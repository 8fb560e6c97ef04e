"""Which directories of removed checkpoints must stay."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from eztinker.oplog import operations, payloads
from eztinker.oplog.database import open_database
from eztinker.oplog.rows import OperationRow
from eztinker.oplog.store import Database
from eztinker.oplog.upgrade import create_or_upgrade
from eztinker.protocol.frames import LoadModel, encode_payload
from eztinker.service.checkpoints.collector import in_use
from eztinker.types import OperationKind


def test_a_removed_checkpoint_stays_while_a_run_may_have_to_load_it_again():
    """It went a minute after its removal, and a run that had loaded it, with no snapshot since, could not come back."""
    memory = Path(":memory:")
    engine = open_database(memory)
    create_or_upgrade(engine, memory)
    load = LoadModel(op_id="op", model_id="run", directory="/checkpoints/loaded", with_optimizer=True)
    row = OperationRow(
        op_id="op", owner="me", lane="run", seq_id=3, kind=OperationKind.LOAD_WEIGHTS, created_at=datetime.now(UTC)
    )
    (stored,) = Database(engine).commit([lambda db: operations.append(db, row, encode_payload(load))])
    assert stored.exception() is None
    assert Database(engine).read(in_use) == {"loaded"}
    Database(engine).commit([lambda db: payloads.release_covered(db, "run", 3)])
    assert Database(engine).read(in_use) == set()
