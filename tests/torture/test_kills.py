"""Kill anything at any moment: the unmodified client ends normally with the same numbers, to the last bit.

Every strike comes after new optimizer steps of every loop, as the log has them, and is counted.
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

from tests.torture.finished_steps import (
    finished_steps_by_epoch,
    newest_epoch,
    num_unfinished,
    wait_for_new_steps,
)
from tests.torture.sizes import FULL, SEED, sized
from tests.torture.victims import Client, Keeper, saved_bytes

STEPS_PER_STRIKE = 3
"""What each loop may do between two strikes; it does at least one, and is mostly in the middle of the second."""
DELAY_SECONDS = 0.15
"""At most, from the new steps to the strike: about what two steps take."""
STEP_SECONDS = 120.0
FIRST_START_SECONDS = 2.0
"""Of a server with nothing to recover, on a machine with little else to do."""
BACK_SECONDS = 10.0
UNREADY_SECONDS, END_SECONDS = 1.0, 30.0
"""From SIGTERM."""
LOOPS = ("sft", "rl")
SETTINGS = {"EZTINKER_SNAPSHOT_OPERATIONS": "20"}


def run_loops(keeper: Keeper, num_strikes: int, strike: Callable[[Keeper], None] | None = None) -> dict[str, object]:
    """Both loops side by side, struck so often if `strike` says how. What came out of them."""
    with keeper.running():
        num_steps = num_strikes * STEPS_PER_STRIKE
        clients = {loop: Client(loop, keeper.url, num_steps, is_paced=strike is not None) for loop in LOOPS}
        if strike is not None:
            strike_after_new_steps(keeper, list(clients.values()), num_strikes, strike)
        outcomes = {loop: json.loads(client.outcome(STEP_SECONDS * 2)) for loop, client in clients.items()}
    report_outages(keeper, clients.values())
    return {
        loop: (outcome["losses"], [saved_bytes(keeper.data_dir, path) for path in outcome["paths"]])
        for loop, outcome in outcomes.items()
    }


def strike_after_new_steps(
    keeper: Keeper, clients: list[Client], num_strikes: int, strike: Callable[[Keeper], None]
) -> None:
    """Strike at random moments, each after every loop has finished a step on the engine that is struck."""
    generator = random.Random(SEED)
    struck_epoch = num_midway = 0
    for _ in range(num_strikes):
        for client in clients:
            client.allow(STEPS_PER_STRIKE)
        wait_for_new_steps(
            keeper.data_dir,
            {},
            after_epoch=struck_epoch,
            num_runs=len(clients),
            seconds=STEP_SECONDS,
            goes_on=lambda: all(client.is_alive for client in clients),
        )
        time.sleep(generator.uniform(0, DELAY_SECONDS))
        num_midway += num_unfinished(keeper.data_dir) > 0
        struck_epoch = newest_epoch(keeper.data_dir)
        keeper.disturb(strike)
    print(f"\nseed {SEED}: {num_strikes} strikes, each after new steps of every loop, {num_midway} with work in hand")
    assert num_midway >= num_strikes / 4, "the strikes found idle engines"


def report_outages(keeper: Keeper, clients: Iterable[Client]) -> None:
    """Print how long clients and server were held up, and hold the middle ones against what this machine can do."""
    if not keeper.killed_at:
        return
    waits = [client.next_step_after(moment) for moment in keeper.killed_at for client in clients]
    to_next_step = [seconds for seconds in waits if seconds is not None]
    print("seconds, in the middle and at most:")
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
    ("strike", "num_strikes", "exit_code"),
    [
        (Keeper.kill_engine, sized(12, 50, 1000), None),
        (Keeper.kill_group, sized(4, 20, 300), -signal.SIGKILL),
        (Keeper.kill_both, sized(4, 20, 300), -signal.SIGKILL),
        (Keeper.terminate, sized(2, 5, 200), 0),
    ],
    ids=["engine killed", "server and engine killed", "one killed right after the other", "server restarted"],
)
def test_a_client_ends_normally_with_the_same_numbers_to_the_last_bit(
    tmp_path: Path,
    tiny_model_dir: Path,
    strike: Callable[[Keeper], None],
    num_strikes: int,
    exit_code: int | None,
):
    expected = run_loops(Keeper(tmp_path / "quiet", tiny_model_dir, SETTINGS), num_strikes)
    victim = Keeper(tmp_path / "disturbed", tiny_model_dir, SETTINGS)
    found = run_loops(victim, num_strikes, strike)
    if exit_code is None:
        assert victim.exit_codes == [0]
    else:
        assert victim.exit_codes == [exit_code] * num_strikes + [0]
    num_engines_with_steps = sum(num_steps > 0 for num_steps in finished_steps_by_epoch(victim.data_dir))
    assert num_engines_with_steps >= num_strikes, "an engine was struck before it had finished a step"
    for loop in LOOPS:
        assert found[loop] == expected[loop], f"the {loop} loop came out otherwise; seed {SEED}"
