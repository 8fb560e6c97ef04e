"""Exact deaths and refusals: on both sides of every durable step, in the middle of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eztinker import failpoints
from tests.torture.finished_steps import finished_steps_by_epoch, wait_for_new_steps
from tests.torture.victims import Client, Keeper

NUM_STEPS, NUM_STEPS_BEFORE = 5, 2
STEP_SECONDS = 240.0


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> list[float]:
    return losses(tmp_path_factory.mktemp("quiet"), tiny_model_dir, "log.commit:1:kill")


# `log.commit` names `log.committed` too: odd numbers are before a commit.
@pytest.mark.parametrize("place", ["log.commit:3", "log.committed:3", "engine.report:3", "engine.reported:2"])
def test_a_death_between_any_two_durable_steps_changes_nothing(
    tmp_path: Path, tiny_model_dir: Path, expected: list[float], place: str
):
    marker = tmp_path / "marker"
    assert losses(tmp_path / "data", tiny_model_dir, f"{place}:kill", marker) == expected
    assert marker.exists()
    struck, _ = finished_steps_by_epoch(tmp_path / "data")
    assert 0 < struck < NUM_STEPS


def test_a_log_that_the_disk_refuses_once_delays_and_changes_nothing(
    tmp_path: Path, tiny_model_dir: Path, expected: list[float]
):
    marker = tmp_path / "marker"
    assert losses(tmp_path / "data", tiny_model_dir, "log.commit:3:enospc", marker) == expected
    assert marker.exists()


def losses(data_dir: Path, model_dir: Path, failpoint: str, marker: Path | None = None) -> list[float]:
    """What a supervised loop with saves saw, on a server where a failpoint is armed after its first steps.

    Args:
        marker: is there again once the failpoint has struck; without one it never does.
    """
    disarmed = marker or data_dir / "marker"
    disarmed.touch()
    settings = {failpoints.VARIABLE: f"{failpoint}:{disarmed}", "EZTINKER_SNAPSHOT_OPERATIONS": "2"}
    with Keeper(data_dir, model_dir, settings).running() as keeper:
        client = Client("sft", keeper.url, NUM_STEPS, is_paced=True)
        client.allow(NUM_STEPS_BEFORE)
        wait_for_new_steps(data_dir, {}, num_runs=1, seconds=STEP_SECONDS, goes_on=lambda: client.is_alive)
        if marker is not None:
            marker.unlink()
        client.allow(NUM_STEPS - NUM_STEPS_BEFORE)
        return json.loads(client.outcome(STEP_SECONDS))["losses"]
