"""Exact deaths and refusals: on both sides of every durable step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eztinker import failpoints
from tests.torture.finished_steps import finished_steps_by_epoch
from tests.torture.victims import Client, Keeper

NUM_STEPS = 3


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> list[float]:
    return losses(tmp_path_factory.mktemp("quiet"), tiny_model_dir, "")


@pytest.mark.parametrize("place", ["log.commit:6", "log.committed:9", "engine.report:3", "engine.reported:4"])
def test_a_death_between_any_two_durable_steps_changes_nothing(
    tmp_path: Path, tiny_model_dir: Path, expected: list[float], place: str
):
    marker = tmp_path / "marker"
    assert losses(tmp_path / "data", tiny_model_dir, f"{place}:kill:{marker}") == expected
    assert marker.exists()
    struck, _ = finished_steps_by_epoch(tmp_path / "data")
    assert 0 < struck < NUM_STEPS


def test_a_log_that_the_disk_refuses_once_delays_and_changes_nothing(
    tmp_path: Path, tiny_model_dir: Path, expected: list[float]
):
    marker = tmp_path / "marker"
    assert losses(tmp_path / "data", tiny_model_dir, f"log.commit:9:enospc:{marker}") == expected
    assert marker.exists()


def losses(data_dir: Path, model_dir: Path, failpoint: str) -> list[float]:
    """What a supervised loop with saves saw, on a server where one failpoint is armed."""
    settings = {failpoints.VARIABLE: failpoint, "EZTINKER_SNAPSHOT_OPERATIONS": "2"}
    with Keeper(data_dir, model_dir, settings).running() as keeper:
        return json.loads(Client("sft", keeper.url, NUM_STEPS).outcome(120))["losses"]
