"""Optimizer steps as the operation log has them, so that a test knows what a kill has struck.

A kill by the clock can fall before the first step, where there is nothing to lose, and would prove nothing.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from eztinker.service.service import LOG_FILE

_FINISHED = "FROM operations WHERE kind = 'optim_step' AND status IN ('done', 'expired')"


def finished_steps(data_dir: Path, *, after_epoch: int = 0) -> dict[str, int]:
    """How many optimizer steps each run has finished on later engines, for the runs that have any."""
    return dict(_rows(data_dir, f"SELECT lane, count(*) {_FINISHED} AND epoch > {after_epoch} GROUP BY lane"))


def newest_epoch(data_dir: Path) -> int:
    """The number of the engine that was started last; 0 before the first."""
    return max((epoch for (epoch,) in _rows(data_dir, "SELECT epoch FROM epochs")), default=0)


def finished_steps_by_epoch(data_dir: Path) -> list[int]:
    """How many optimizer steps each engine has finished, oldest engine first, over the life of the directory."""
    counts = dict(_rows(data_dir, f"SELECT epoch, count(*) {_FINISHED} GROUP BY epoch"))
    return [counts.get(epoch, 0) for (epoch,) in _rows(data_dir, "SELECT epoch FROM epochs ORDER BY epoch")]


def num_unfinished(data_dir: Path) -> int:
    """Operations that are accepted and not yet done."""
    return _rows(data_dir, "SELECT count(*) FROM operations WHERE status = 'pending'")[0][0]


def wait_for_new_steps(
    data_dir: Path,
    seen: dict[str, int],
    *,
    num_runs: int,
    seconds: float,
    goes_on: Callable[[], bool],
    after_epoch: int = 0,
) -> dict[str, int]:
    """Wait until each of `num_runs` runs has finished a step beyond those in `seen`; gives what all have finished.

    Args:
        after_epoch: count the steps of engines started after this one alone.
    Raises:
        AssertionError: they have not within `seconds`, or what trains has ended before.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = finished_steps(data_dir, after_epoch=after_epoch)
        if sum(count > seen.get(run, 0) for run, count in found.items()) >= num_runs:
            return found
        assert goes_on(), f"what trains has ended with {found} steps, and {seen} were seen before"
        assert time.monotonic() < deadline, f"no new step of each run within {seconds} s: {found} after {seen}"
        time.sleep(0.005)


def _rows(data_dir: Path, query: str) -> list[tuple]:
    path = data_dir / LOG_FILE
    if not path.exists():
        return []
    with closing(sqlite3.connect(path, timeout=30)) as db:
        return db.execute(query).fetchall()
