"""Writes to an operation log as a busy server does, and notes what the log has acknowledged.

`python -m tests.torture.log_writer DIRECTORY OPERATIONS` keeps the log and a file `acknowledged` in the directory, with
a line `append ID` or `finish ID` for each change that has returned. What the disk refuses is asked for again, as
clients do, and every third time by another process: this one ends with DIED, and who starts it again goes on with it.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from eztinker.errors import LogUnwritable
from eztinker.oplog import epochs, operations, payloads
from eztinker.oplog.rows import OperationRow
from eztinker.oplog.store import Change, Store
from eztinker.types import OperationKind

NOW = datetime(2026, 1, 2, tzinfo=UTC)
LOG, ACKNOWLEDGED = "oplog.sqlite3", "acknowledged"
CONCURRENT = 8
DIED = 3
DROP_EVERY = 60
"""Operations after which the oldest results go, so that pages are used again."""


@cache
def payload_of(op_id: str) -> bytes:
    return random.Random(f"payload {op_id}").randbytes(3000)


@cache
def result_of(op_id: str) -> bytes:
    return random.Random(f"result {op_id}").randbytes(6000)


async def run(directory: Path, num_operations: int) -> None:
    try:
        store = Store(directory / LOG)
    except LogUnwritable:
        os._exit(DIED)
    noted = os.open(directory / ACKNOWLEDGED, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    is_done = {line.split()[1] for line in Path(directory / ACKNOWLEDGED).read_text().splitlines() if "finish" in line}
    refusals = count(1)

    async def write(change: Change) -> Any:
        while True:
            try:
                return await store.write(change)
            except LogUnwritable:
                if next(refusals) % (3 * CONCURRENT) == 0:
                    os._exit(DIED)

    epoch = await write(lambda db: epochs.begin(db, NOW))

    async def live(number: int) -> None:
        op_id = f"op-{number}"
        if op_id in is_done:
            return
        row = OperationRow(
            op_id=op_id, owner="local", lane="run", seq_id=number, kind=OperationKind.OPTIM_STEP, created_at=NOW
        )
        await write(lambda db: operations.append(db, row, payload_of(op_id)))
        os.write(noted, f"append {op_id}\n".encode())

        def finish(db: Connection) -> None:
            operations.finish(
                db, op_id, epoch=epoch, media_type="x", result=result_of(op_id), keeps_payload=True,
                now=NOW + timedelta(seconds=number))  # fmt: skip
            if number % DROP_EVERY == 0:
                payloads.release_covered(db, "run", number - DROP_EVERY)
                operations.expire_results(db, NOW + timedelta(seconds=number - DROP_EVERY))

        await write(finish)
        os.write(noted, f"finish {op_id}\n".encode())

    for first in range(1, num_operations, CONCURRENT):
        await asyncio.gather(*(live(number) for number in range(first, first + CONCURRENT)))
    os._exit(0)  # no close: a power cut finds the log open


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), int(sys.argv[2])))
