"""A calendar clock that is set an hour forward or back, over and over, changes nothing for a running client."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from eztinker.service import service
from eztinker.service.clock import Clock
from tests.servers import serving_scripted, wait_until
from tests.wire import (
    PROTOBUF,
    chunk,
    loss_of,
    new_run,
    new_sampler,
    optim_step,
    outcome,
    post,
    sample_body,
    save,
    send_chunk,
)

JUMPS = [timedelta(hours=hours) for hours in (0, 1, -1, 1, 0, -1)]
NUM_STEPS = 20


def test_a_clock_that_jumps_by_hours_loses_and_repeats_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every look at the clock finds it set anew, also that of the housekeeping, which runs dozens of times."""
    looks: list[datetime] = []
    jumps = itertools.cycle(JUMPS)

    def now(_: Clock) -> datetime:
        looks.append(datetime.now(UTC) + next(jumps))
        return looks[-1]

    monkeypatch.setenv("SCRIPTED_ENGINE_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(service, "HOUSEKEEPING_SECONDS", 0.05)
    monkeypatch.setattr(Clock, "now", now)
    with serving_scripted(tmp_path / "data", snapshot_operations=4) as server, server.client() as http:
        run = new_run(http)
        futures = take_steps(http, run, first=1)
        num_looks = len(looks)
        wait_until(lambda: len(looks) > num_looks + 100)
        path = save(http, "/save_weights", run, 2 * NUM_STEPS + 1, path="middle", ttl_seconds=7300)["path"]
    with serving_scripted(tmp_path / "data", snapshot_operations=4) as server, server.client() as http:
        assert send_chunk(http, chunk(run, 1)) == futures[0]
        futures += take_steps(http, run, first=2 * NUM_STEPS + 2)
        losses = [loss_of(outcome(http, each, accept=PROTOBUF)) for each in futures]
        assert losses == [float(2 * step + 1) for step in range(2 * NUM_STEPS)]
        listed = http.get(f"/training_runs/{run}/checkpoints").json()["checkpoints"]
        assert [row["tinker_path"] for row in listed] == [path]


def take_steps(http: httpx.Client, run: str, *, first: int) -> list[str]:
    """Passes, steps and samples, numbered from `first`; gives the futures of the passes."""
    sampler = new_sampler(http)
    futures = []
    for seq_id in range(first, first + 2 * NUM_STEPS, 2):
        futures.append(send_chunk(http, chunk(run, seq_id)))
        assert outcome(http, optim_step(http, run, seq_id + 1, learning_rate=0.1)).status_code == 200
        sampled = post(http, "/asample", **sample_body(sampler, seq_id=seq_id))["request_id"]
        assert outcome(http, sampled).json()["sequences"][0]["tokens"] == [11, 12]
    return futures
