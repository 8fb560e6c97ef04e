"""Permuted, missing and repeated numbers of operations: what a lane does is what the protocol reference asks for.

The reference (sections 5 and 6): operations of a run are carried out in the order of their numbers, whatever the order
of arrival. A repeat gets the first future and does nothing. A missing number is given up as soon as a higher one has
come that is never sent in chunks, or once nothing new has come for the configured wait.
"""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, cast

import pytest

from eztinker.errors import SequenceGap
from eztinker.oplog.store import Store
from eztinker.protocol.frames import OptimStep
from eztinker.service.clock import Clock
from eztinker.service.execution import run_lanes
from eztinker.service.execution.futures import Futures
from eztinker.service.execution.lanes import GAP_WAIT_SECONDS, Lane
from eztinker.service.execution.operation import LiveOperations, Operation, new_op_id
from eztinker.service.execution.plans import StepPlan
from eztinker.service.execution.run_feed import RunFeed
from eztinker.service.execution.run_lanes import RunLanes
from eztinker.types import AdamParams, OperationKind
from tests.torture.sizes import FULL, SEED

NUM_CASES = 1_000_000 if FULL else 100_000
NUM_WIRED_CASES = 2_000 if FULL else 300
WAIT = int(GAP_WAIT_SECONDS)
NEVER = float("inf")


class Arrival(NamedTuple):
    at: int
    """Seconds since the start."""
    seq_id: int
    is_chunked: bool


Started = list[tuple[int, int]]
"""When, and which number."""


def random_case(generator: random.Random) -> list[Arrival]:
    """A few numbers in some order, some of them missing, some repeated, with pauses up to a little over the wait."""
    numbers = generator.sample(range(1, 13), generator.randint(1, 9))
    if generator.random() < 0.5:
        numbers.sort(key=lambda number: number + generator.uniform(0, 3))  # nearly in order, as real ones are
    numbers += generator.choices(numbers, k=generator.randint(0, 3))
    is_chunked = {number: generator.random() < 0.8 for number in numbers}
    now, arrivals = 0, []
    for number in numbers:
        now += generator.choice((0, 0, 1, WAIT // 2, WAIT - 1, WAIT, WAIT + 1))
        arrivals.append(Arrival(now, number, is_chunked[number]))
    return arrivals


def expected(case: list[Arrival]) -> tuple[Started, set[int]]:
    """When each operation starts, in order, and which are refused: the rules above as a formula over arrival times."""
    accepted: list[Arrival] = []
    refused: set[int] = set()
    for arrival in case:
        is_repeat = arrival.seq_id in refused or any(arrival.seq_id == other.seq_id for other in accepted)
        if is_repeat:
            continue
        if given_up_at(arrival.seq_id, accepted) <= arrival.at:
            refused.add(arrival.seq_id)
        else:
            accepted.append(arrival)
    came_at = {arrival.seq_id: arrival.at for arrival in accepted}
    started, may_start_at = [], 0.0
    for number in range(1, max(came_at) + 1):
        is_there = number in came_at
        may_start_at = max(may_start_at, came_at[number] if is_there else given_up_at(number, accepted))
        if is_there:
            started.append((int(may_start_at), number))
    return started, refused


def given_up_at(number: int, accepted: list[Arrival]) -> float:
    """When a number that does not come is no longer waited for, if this is all that comes."""
    above = [arrival for arrival in accepted if arrival.seq_id > number]
    if not above:
        return NEVER
    proven_at = min((arrival.at for arrival in above if not arrival.is_chunked), default=NEVER)
    waits_since = above[0].at
    silent_until = NEVER
    for this, following in zip(accepted, [*accepted[1:], None], strict=True):
        is_silent = following is None or following.at - this.at >= WAIT
        if is_silent and this.at >= waits_since:
            silent_until = this.at + WAIT
            break
    return min(proven_at, silent_until)


def observed(case: list[Arrival]) -> tuple[Started, set[int]]:
    """What a lane does, with repeats sorted out before it as the log does."""
    lane: Lane[int] = Lane(gap_wait_seconds=WAIT)
    started: Started = []
    refused: set[int] = set()
    accepted: set[int] = set()

    def let_time_pass(until: float) -> None:
        while lane.deadline is not None and lane.deadline <= until:
            now = lane.deadline
            started.extend((int(now), number) for number in lane.release_due(now))

    for at, seq_id, is_chunked in case:
        let_time_pass(at)
        if seq_id in accepted:
            continue
        accepted.add(seq_id)
        try:
            started.extend((at, number) for number in lane.arrive(seq_id, seq_id, is_chunked=is_chunked, now=at))
        except SequenceGap:
            refused.add(seq_id)
    let_time_pass(case[-1].at + WAIT)
    assert lane.deadline is None, "something waits for longer than it may"
    return started, refused


def test_any_numbers_start_in_order_or_are_refused_exactly_when_the_reference_says():
    generator = random.Random(SEED)
    num_refused = num_late = 0
    for number in range(NUM_CASES):
        case = random_case(generator)
        started, refused = expected(case)
        assert observed(case) == (started, refused), f"case {number} of seed {SEED}: {case}"
        assert len(started) + len(refused) == len({arrival.seq_id for arrival in case})
        num_refused += bool(refused)
        num_late += started[-1][0] > case[-1].at
    assert num_refused > NUM_CASES / 20, "cases with refusals are rare, so little is shown"
    assert num_late > NUM_CASES / 20, "cases that end by the clock are rare, so little is shown"


class MovedClock(Clock):
    seconds = 0.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def monotonic(self) -> float:
        return self.seconds


class RecordingFeed:
    """Stands where a run's feed to the engine is."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.started: Started = []

    def start(self, operation: Operation) -> None:
        assert operation.seq_id is not None
        self.started.append((int(self._clock.monotonic()), operation.seq_id))


def test_runs_with_a_log_and_a_clock_do_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run_lanes, "GAP_CHECK_SECONDS", 0.001)
    generator = random.Random(SEED)
    cases = {f"run-{number}": random_case(generator) for number in range(NUM_WIRED_CASES)}
    found = asyncio.run(through_run_lanes(tmp_path, cases))
    for model_id, case in cases.items():
        assert found[model_id] == expected(case), f"{model_id} of seed {SEED}: {case}"


async def through_run_lanes(directory: Path, cases: dict[str, list[Arrival]]) -> dict[str, tuple[Started, set[int]]]:
    """All cases side by side, one run each, on one clock."""
    clock, store = MovedClock(), Store(directory / "log.sqlite3")
    futures = Futures(store, clock, LiveOperations())
    feeds = {model_id: RecordingFeed(clock) for model_id in cases}
    lanes = RunLanes(futures, lambda model_id: cast(RunFeed, feeds[model_id]), clock)
    ids: dict[str, dict[int, str]] = {model_id: {} for model_id in cases}

    async def submit(model_id: str, arrivals: list[Arrival]) -> None:
        for arrival in arrivals:
            future_id = await lanes.submit(operation(model_id, arrival))
            assert ids[model_id].setdefault(arrival.seq_id, future_id) == future_id, "a repeat got another future"

    for model_id in cases:
        lanes.open(model_id)
    ends = {arrival.at + WAIT for case in cases.values() for arrival in case}
    async with lanes.watched():
        for now in sorted({arrival.at for case in cases.values() for arrival in case} | ends):
            clock.seconds = now
            await asyncio.sleep(5 * run_lanes.GAP_CHECK_SECONDS)  # the watch looks in between
            due = {model_id: [each for each in case if each.at == now] for model_id, case in cases.items()}
            await asyncio.gather(*(submit(model_id, arrivals) for model_id, arrivals in due.items() if arrivals))
    found = {}
    for model_id, feed in feeds.items():
        left = ids[model_id].keys() - {number for _, number in feed.started}
        for number in left:
            outcome = await futures.outcome("owner", ids[model_id][number], hold_seconds=5)
            assert getattr(outcome, "code", None) == SequenceGap.code
        found[model_id] = feed.started, left
    await futures.settled()
    store.close()
    return found


def operation(model_id: str, arrival: Arrival) -> Operation:
    op_id = new_op_id()
    return Operation(
        op_id=op_id,
        owner="owner",
        lane=model_id,
        seq_id=arrival.seq_id,
        is_chunked=arrival.is_chunked,
        kind=OperationKind.OPTIM_STEP,
        work=OptimStep(op_id=op_id, model_id=model_id, adam=AdamParams()),
        plan=StepPlan(),
    )
