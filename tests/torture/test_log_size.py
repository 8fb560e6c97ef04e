"""The operation log of a long reinforcement run stays small.

EZTINKER_TORTURE=full takes the 10,000 steps, as fast as they go; otherwise 500 that count as two seconds each.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from eztinker.oplog.database import WAL_BYTES
from eztinker.service.clock import Clock
from eztinker.service.service import LOG_FILE
from tests.torture.rl_steps import serving_steps, take_step, train
from tests.torture.sizes import FULL
from tests.wire import PROTOBUF, new_run, outcome

NUM_STEPS, SECONDS_PER_STEP = (10_000, 0.0) if FULL else (500, 2.0)
MAX_BYTES = 200 * 10**6
MAX_BYTES_PER_STEP = 20_000
"""On average, with the results and payloads of the last steps, which are the most of it: 17 and 24 kB a step."""
MAX_ROW_BYTES_PER_STEP = 8_000
"""What may stay of a step for good: four operations, a sampling session and a checkpoint."""


@pytest.mark.timeout(4 * 3600 if FULL else 600)
def test_the_log_of_a_reinforcement_run_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SCRIPTED_ENGINE_DIRECTORY", str(tmp_path))
    num_steps = 0
    monkeypatch.setattr(Clock, "monotonic", lambda _: time.monotonic() + num_steps * SECONDS_PER_STEP)
    sizes, most, future = [], 0, ""
    path = tmp_path / "data" / LOG_FILE
    with serving_steps(tmp_path / "data") as http:
        run = new_run(http)
        for num_steps in range(1, NUM_STEPS + 1):
            future = take_step(http, run, num_steps - 1)
            if num_steps % (NUM_STEPS // 10) == 0:
                wal = path.with_name(f"{path.name}-wal").stat().st_size
                assert wal < WAL_BYTES
                sizes.append(path.stat().st_size)
                most = max(most, sizes[-1] + wal)
                print(f"{num_steps} steps: {sizes[-1] / 1e6:.1f} MB and {wal / 1e6:.1f} MB of write-ahead log")
        assert train(http, run, NUM_STEPS - 1) == future
        assert outcome(http, future, accept=PROTOBUF).status_code == 200
        assert train(http, run, 0) != future
    with closing(sqlite3.connect(path)) as log:
        first = log.execute("SELECT status, result FROM operations WHERE seq_id = 2").fetchall()
        assert ("expired", None) in first
        assert log.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert most < MAX_BYTES
    assert sizes[-1] / NUM_STEPS < MAX_BYTES_PER_STEP
    assert (sizes[-1] - sizes[-4]) / (0.3 * NUM_STEPS) < MAX_ROW_BYTES_PER_STEP
