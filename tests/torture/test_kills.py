"""Kill anything at any moment: the unmodified client ends normally with the same numbers, to the last bit.

Sizes are those of every change; EZTINKER_TORTURE=full takes the ones before a release.
"""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.torture.victims import FULL, SEED, Client, Keeper, saved_bytes

NUM_ENGINE_KILLS = 1000 if FULL else 50
NUM_SERVER_KILLS = 300 if FULL else 20
NUM_RESTARTS = 200 if FULL else 5
STEP_SECONDS = 120.0
LOOPS = ("sft", "rl")
SETTINGS = {"EZTINKER_SNAPSHOT_OPERATIONS": "20"}


def run_loops(keeper: Keeper, num_steps: int, disturb: Callable[[Keeper], None] | None = None) -> dict[str, object]:
    """Both loops side by side; once in every step something happens at a random moment of it. What came out."""
    generator = random.Random(SEED)
    with keeper.running():
        clients = {loop: Client(loop, keeper.url, num_steps) for loop in LOOPS}
        if disturb is not None:
            for step in range(num_steps):
                for client in clients.values():
                    client.wait_for_step(step, STEP_SECONDS)
                time.sleep(generator.uniform(0, 0.3))
                disturb(keeper)
                keeper.wait_until_up()
        outcomes = {loop: json.loads(client.outcome(STEP_SECONDS * 2)) for loop, client in clients.items()}
    return {
        loop: (outcome["losses"], [saved_bytes(keeper.data_dir, path) for path in outcome["paths"]])
        for loop, outcome in outcomes.items()
    }


def num_engines(keeper: Keeper) -> int:
    """Started over the life of the data directory, by whichever server."""
    with closing(sqlite3.connect(keeper.data_dir / "oplog.sqlite3")) as db:
        return db.execute("SELECT count(*) FROM epochs").fetchone()[0]


@pytest.mark.timeout(0 if FULL else 900)
@pytest.mark.parametrize(
    ("disturb", "num_times", "exit_code"),
    [
        (Keeper.kill_engine, NUM_ENGINE_KILLS, None),
        (Keeper.kill_all, NUM_SERVER_KILLS, -signal.SIGKILL),
        (Keeper.terminate, NUM_RESTARTS, 0),
    ],
    ids=["engine killed", "server and engine killed", "server restarted"],
)
def test_a_client_ends_normally_with_the_same_numbers_to_the_last_bit(
    tmp_path: Path,
    tiny_model_dir: Path,
    disturb: Callable[[Keeper], None],
    num_times: int,
    exit_code: int | None,
):
    expected = run_loops(Keeper(tmp_path / "quiet", tiny_model_dir, SETTINGS), num_times)
    victim = Keeper(tmp_path / "disturbed", tiny_model_dir, SETTINGS)
    found = run_loops(victim, num_times, disturb)
    if exit_code is None:
        assert num_engines(victim) >= num_times
        assert victim.exit_codes == [0]
    else:
        assert victim.exit_codes == [exit_code] * num_times + [0]
    for loop in LOOPS:
        assert found[loop] == expected[loop], f"the {loop} loop came out otherwise; seed {SEED}"
