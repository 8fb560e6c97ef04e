"""Exact deaths and refusals: at every file-system call of a save, and on both sides of every durable step."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from eztinker import failpoints
from eztinker.checkpoints.store import ADAPTER_PART, read_manifest, read_tensors
from eztinker.errors import CheckpointNotFound
from tests.torture.victims import Client, Keeper

SAVE = """
import sys
from pathlib import Path
import numpy as np
from eztinker.checkpoints.store import ADAPTER_PART, tensors_part, write_checkpoint
from eztinker.types import CheckpointKind, LoraSpec
parts = {ADAPTER_PART: tensors_part({"a": np.arange(1000, dtype=np.float32)})}
path, kind, lora = "tinker://run/weights/new", CheckpointKind.TRAINING, LoraSpec(rank=1, seed=0)
write_checkpoint(Path(sys.argv[1]), parts, tinker_path=path, kind=kind, base_model="tiny", lora=lora, step=1)
"""
NUM_CALLS = 10
"""Of a save with one part: mkdir; open, write, fsync of part and manifest; fsync and rename; fsync of the parent."""


def save(directory: Path, failpoint: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {failpoints.VARIABLE: failpoint}
    command = [sys.executable, "-c", SAVE, str(directory)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def is_whole(directory: Path) -> bool:
    """A checkpoint is there with every byte, or none is."""
    try:
        manifest = read_manifest(directory)
    except CheckpointNotFound:
        return False
    np.testing.assert_array_equal(
        read_tensors(directory, manifest, ADAPTER_PART)["a"], np.arange(1000, dtype=np.float32)
    )
    return True


def test_a_save_killed_at_any_call_is_there_whole_or_not_at_all_and_can_be_made_again(tmp_path: Path):
    there = []
    for call in range(1, NUM_CALLS + 1):
        directory = tmp_path / str(call)
        killed = save(directory, f"save.:{call}:kill:{tmp_path / f'marker-{call}'}")
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        there.append(is_whole(directory))
        if not there[-1]:
            assert save(directory, "").returncode == 0
            assert is_whole(directory)
    assert there == [False] * (NUM_CALLS - 1) + [True]
    assert save(tmp_path / "all", f"save.:{NUM_CALLS + 1}:kill:{tmp_path / 'never'}").returncode == 0


@pytest.mark.parametrize("action", ["enospc", "eio"])
def test_a_save_that_the_disk_refuses_leaves_nothing_and_can_be_made_again(tmp_path: Path, action: str):
    for call in range(1, NUM_CALLS):
        directory = tmp_path / str(call)
        refused = save(directory, f"save.:{call}:{action}:{tmp_path / f'marker-{call}'}")
        assert refused.returncode == 1
        assert "OSError" in refused.stderr
        assert not directory.exists()
        assert not list(tmp_path.glob("*.partial"))
        assert save(directory, "").returncode == 0
        assert is_whole(directory)


NUM_STEPS = 3


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> list[float]:
    return losses(tmp_path_factory.mktemp("quiet"), tiny_model_dir, "")


@pytest.mark.parametrize(
    "place", ["log.commit:6", "log.committed:9", "engine.report:3", "engine.reported:4", "save.:5"]
)
def test_a_death_between_any_two_durable_steps_changes_nothing(
    tmp_path: Path, tiny_model_dir: Path, expected: list[float], place: str
):
    marker = tmp_path / "marker"
    assert losses(tmp_path / "data", tiny_model_dir, f"{place}:kill:{marker}") == expected
    assert marker.exists()


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
