"""`eztinker demo` does not notice the death of its engine: it prints the accuracy it would have had.

The small size trains the tiny model on answers right or wrong, for it has few right ones; the full one is the demo as
users run it.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from eztinker.model.cpu_kernels import cpu_kernels
from eztinker.settings.data_dir import running_server
from tests.torture.finished_steps import finished_steps, finished_steps_by_epoch, wait_for_new_steps
from tests.torture.sizes import FULL, SEED
from tests.torture.victims import children_of, kill

ROUNDS = 3
TRAINED_SECONDS = 600.0
"""At most, from the begin of a round to its first step."""
SMALL = ["--dataset", "arithmetic", "--max-samples", "24", "--eval-size", "24", "--lora-rank", "2", "--no-filter"]
OF_THIS_RUN_ALONE = ("seconds", "run_id", "sampler_path", "report", "adapter", "reuse_command")


def run_demo(directory: Path, flags: list[str], *, kills_engine: bool = False) -> dict[str, Any]:
    """What the demo found. Its engine dies in round 2 twice: when it samples, and after new steps of that round."""
    data_dir = directory / "data"
    command = [sys.executable, "-m", "eztinker", "demo", "--seed", "0", "--rounds", str(ROUNDS), *flags]
    command += ["--data-dir", str(data_dir), "--output-dir", str(directory / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as demo:
        assert demo.stdout is not None
        printed = []
        for line in demo.stdout:
            printed.append(line)
            if kills_engine and "Round 2 of" in line:
                of_round_1 = finished_steps(data_dir)
                assert sum(of_round_1.values()) > 0
                kill_engine(data_dir)
                wait_for_new_steps(
                    data_dir, of_round_1, num_runs=1, seconds=TRAINED_SECONDS, goes_on=lambda: demo.poll() is None
                )
                kill_engine(data_dir)
    assert demo.returncode == 0, "".join(printed)
    summary = json.loads((directory / "run" / "summary.json").read_text())
    last_accuracy = [line for line in printed if f"Held-out accuracy after {ROUNDS} rounds" in line]
    assert f"{100 * summary['accuracy_after']:.1f} %" in last_accuracy[0]
    return summary


def kill_engine(data_dir: Path) -> None:
    """-9 for the newest engine of the demo's server, after a random moment."""
    time.sleep(random.Random(SEED).uniform(0, 0.2))
    server = running_server(data_dir)
    assert server is not None
    kill(max(children_of(server.pid)))


def what_was_found(summary: dict[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in summary.items() if name not in OF_THIS_RUN_ALONE}
    found["per_round"] = [
        {name: value for name, value in each.items() if name not in OF_THIS_RUN_ALONE} for each in summary["per_round"]
    ]
    return found


@pytest.mark.timeout(0 if FULL else 300)
def test_the_demo_finds_the_same_when_its_engine_is_killed_twice_in_round_2(tmp_path: Path, tiny_model_dir: Path):
    flags = [] if FULL else [*SMALL, "--base-model", f"tiny/llama={tiny_model_dir}"]
    expected = run_demo(tmp_path / "quiet", flags)
    found = run_demo(tmp_path / "disturbed", flags, kills_engine=True)
    assert len(finished_steps_by_epoch(tmp_path / "quiet" / "data")) == 1
    before, sampling, after = finished_steps_by_epoch(tmp_path / "disturbed" / "data")
    assert min(before, sampling, after) > 0
    assert [len(each["losses"]) > 0 for each in found["per_round"]] == [True] * ROUNDS
    if cpu_kernels(torch.float32) is None:
        pytest.skip("with torch's operators rounding depends on the batch, and samples drawn again share another one")
    assert what_was_found(found) == what_was_found(expected)
