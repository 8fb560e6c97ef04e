"""What the operation log has acknowledged survives the loss of all that was not flushed to disk."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest
from sqlalchemy import Connection, select

from eztinker.oplog.rows import OperationStatus
from eztinker.oplog.schema import operations, payloads
from eztinker.oplog.store import Store
from tests.torture.disks import FAILED_SYNC, SYNC, Call, Disk, read_record
from tests.torture.log_writer import ACKNOWLEDGED, DIED, LOG, payload_of, result_of
from tests.torture.sizes import SEED, sized

NUM_CASES = sized(500, 500, 5000)
NUM_OPERATIONS = 640
MOST_PROCESSES = 200
COMPILER = shutil.which("cc")


FLUSHES_PER_FAILURE = 7


def record_of(place: Path, failures: Mapping[str, str]) -> tuple[Path, list[Call]]:
    """The directory of a busy log, and every call that it took."""
    if COMPILER is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler")
    shim, directory, record = place / "recorder.so", place / "disk", place / "record"
    directory.mkdir()
    source = Path(__file__).with_name("disk_recorder.c")
    subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", "-o", shim, source, "-ldl"], check=True)
    environment = os.environ | {"LD_PRELOAD": str(shim), "RECORDED_DIRECTORY": str(directory), "RECORD": str(record)}
    command = [sys.executable, "-m", "tests.torture.log_writer", str(directory), str(NUM_OPERATIONS)]
    for number in range(MOST_PROCESSES):
        code = subprocess.run(command, env=environment | {**failures, "FIRST_SYNC": str(3 * number)}).returncode
        if code == 0:
            break
        assert failures
        assert code == DIED
    return directory, list(read_record(record))


@pytest.mark.parametrize("failures", [{}, {"FAILED_SYNC": str(FLUSHES_PER_FAILURE)}], ids=["whole", "flushes fail"])
def test_every_acknowledged_operation_survives_a_power_cut_at_any_moment(tmp_path: Path, failures: Mapping[str, str]):
    """Also on a disk whose flushes fail now and then, and that never writes what those were to bring there."""
    directory, calls = record_of(tmp_path, failures)
    assert sum(call.what == SYNC and call.path.endswith(LOG) for call in calls) >= 3, "the log was never checkpointed"
    assert any(call.what == FAILED_SYNC and call.path.endswith(f"{LOG}-wal") for call in calls) == bool(failures)
    generator = random.Random(SEED)
    cuts = sorted(generator.randrange(len(calls) + 1) for _ in range(NUM_CASES))
    disk, acknowledged, place = Disk(str(directory)), set[str](), 0
    for case, cut in enumerate(cuts):
        for call in calls[place:cut]:
            if call.path.endswith(ACKNOWLEDGED):
                acknowledged.add(call.data.decode().strip())
            else:
                disk.apply(call)
        place = cut
        found = tmp_path / str(case)
        found.mkdir()
        for path, content in disk.after_power_loss(generator).items():
            if not path.endswith("-shm"):  # made anew by whoever opens the log first
                (found / Path(path).name).write_bytes(content)
        check_log(found / LOG, acknowledged)
        shutil.rmtree(found)
    assert len(acknowledged) > NUM_OPERATIONS


def check_log(path: Path, acknowledged: Collection[str]) -> None:
    store = Store(path)
    try:
        asyncio.run(store.read(lambda db: _check(db, acknowledged)))
    finally:
        store.close()


def _check(db: Connection, acknowledged: Collection[str]) -> None:
    assert db.exec_driver_sql("PRAGMA integrity_check").all() == [("ok",)]
    assert db.exec_driver_sql("PRAGMA foreign_key_check").all() == []
    query = select(operations, payloads.c.content).select_from(operations.outerjoin(payloads))
    rows = {row.op_id: row for row in db.execute(query)}
    for entry in acknowledged:
        what, op_id = entry.split()
        assert op_id in rows, f"{op_id} was acknowledged and is lost"
        row = rows[op_id]
        assert row.payload is None or row.content == payload_of(op_id)
        if what == "finish":
            assert row.status != OperationStatus.PENDING, f"the outcome of {op_id} was acknowledged and is lost"
            assert row.status == OperationStatus.EXPIRED or row.result == result_of(op_id)
