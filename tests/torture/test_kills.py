"""Kill anything at any moment: the unmodified client ends normally with the same numbers, to the last bit.

Sizes are those of every change; EZTINKER_TORTURE=full takes the ones before a release.
"""

from __future__ import annotations

import json
import random
import signal
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.torture.victims import FULL, SEED, Client, Keeper, num_engines, saved_bytes

NUM_ENGINE_KILLS = 1000 if FULL else 50
NUM_SERVER_KILLS = 300 if FULL else 20
NUM_RESTARTS = 200 if FULL else 5
STEP_SECONDS = 120.0
FIRST_START_SECONDS = 2.0
"""Of a server with nothing to recover, on a machine with little else to do."""
BACK_SECONDS = 10.0
UNREADY_SECONDS, END_SECONDS = 1.0, 30.0
"""From SIGTERM."""
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
                keeper.disturb(disturb)
        outcomes = {loop: json.loads(client.outcome(STEP_SECONDS * 2)) for loop, client in clients.items()}
    report_outages(keeper, clients.values())
    return {
        loop: (outcome["losses"], [saved_bytes(keeper.data_dir, path) for path in outcome["paths"]])
        for loop, outcome in outcomes.items()
    }


def report_outages(keeper: Keeper, clients: Iterable[Client]) -> None:
    """Print how long clients and server were held up, and hold the middle ones against what this machine can do."""
    if not keeper.killed_at:
        return
    waits = [client.next_step_after(moment) for moment in keeper.killed_at for client in clients]
    to_next_step = [seconds for seconds in waits if seconds is not None]
    print(f"\nseed {SEED}, {len(keeper.killed_at)} times; seconds, in the middle and at most:")
    for what, seconds in (
        ("the server answers again", keeper.up_seconds),
        ("a client begins its next step", to_next_step),
        ("a stopping server takes no requests", keeper.refusing_seconds),
        ("a stopping server has ended", keeper.ending_seconds),
    ):
        if seconds:
            print(f"  {what:36} {statistics.median(seconds):5.1f} {max(seconds):5.1f}")
    print(f"  the first start of the server took {keeper.first_start_seconds:.1f}")
    slowness = max(1.0, keeper.first_start_seconds / FIRST_START_SECONDS)
    assert statistics.median(keeper.up_seconds) <= BACK_SECONDS * slowness
    if keeper.refusing_seconds:
        assert statistics.median(keeper.refusing_seconds) <= UNREADY_SECONDS * slowness
        assert max(keeper.ending_seconds) <= END_SECONDS * slowness


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
        assert num_engines(victim.data_dir) >= num_times
        assert victim.exit_codes == [0]
    else:
        assert victim.exit_codes == [exit_code] * num_times + [0]
    for loop in LOOPS:
        assert found[loop] == expected[loop], f"the {loop} loop came out otherwise; seed {SEED}"
