"""How much of each owner's queue the engine gets."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import numpy as np

from eztinker.errors import Cancelled, EZTinkerError
from eztinker.oplog.rows import SamplingSession
from eztinker.protocol.frames import Outcome, Sample
from eztinker.service.execution.engine_process import EngineProcess
from eztinker.service.execution.futures import Done, Futures
from eztinker.service.execution.operation import LiveOperations, Operation
from eztinker.service.execution.plans import SamplePlan
from eztinker.service.sampling.sample_turns import SampleTurns
from eztinker.types import OperationKind, SampleRequest, SamplingParams


class Recorder(Futures):
    """Futures of operations that end when the test says so."""

    def __init__(self, live: LiveOperations) -> None:
        self._live = live
        self.failed: dict[str, EZTinkerError] = {}

    def fail(self, operation: Operation, error: EZTinkerError) -> None:
        self.failed[operation.op_id] = error
        self._live.remove(operation)


class Engine(EngineProcess):
    """Takes samples, and answers none."""

    def __init__(self) -> None:
        self.started: list[Operation] = []
        self.cancelled: list[str] = []

    def sample(self, operation: Operation) -> asyncio.Future[Outcome]:
        self.started.append(operation)
        return asyncio.get_running_loop().create_future()

    def cancel(self, operation: Operation) -> None:
        self.cancelled.append(operation.op_id)


class Samples:
    """Turns of an engine with one sequence per batch."""

    def __init__(self) -> None:
        live = LiveOperations()
        self._live = live
        self.futures, self.engine = Recorder(live), Engine()
        self.turns = SampleTurns(self.futures, live, self.engine, max_batch_size=1)

    def start(self, operation: Operation) -> None:
        self.futures.expect(operation)
        self.turns.start(operation)

    async def end(self, op_id: str) -> None:
        operation = self._live.get(op_id)
        assert operation is not None
        assert operation.outcome is not None
        self._live.remove(operation)
        operation.outcome.set_result(Done(kind=OperationKind.SAMPLE, media_type="", body=b""))
        await asyncio.sleep(0)

    @property
    def started(self) -> list[str]:
        return [operation.op_id for operation in self.engine.started]


def sample(op_id: str, *, num_samples: int = 1) -> Operation:
    request = SampleRequest(prompt=np.array([1]), num_samples=num_samples, params=SamplingParams(max_tokens=1))
    work = Sample(op_id=op_id, base_model="tiny", directory=None, request=request)
    sampler = SamplingSession(
        sampling_session_id="lane",
        owner=op_id[0],
        session_id="session",
        seq_id=0,
        base_model="tiny",
        checkpoint_id=None,
        created_at=datetime.now(UTC),
    )
    plan = SamplePlan(sampler=sampler, model_id=None, prompt=request.prompt, targets=None)
    return Operation(
        op_id=op_id, owner=op_id[0], lane="lane", seq_id=0, kind=OperationKind.SAMPLE, work=work, plan=plan
    )


async def started_after(ends: list[str], *arrivals: Operation) -> list[str]:
    """What has gone to an engine of one sequence per batch when `arrivals` came and then `ends` ended."""
    samples = Samples()
    for operation in arrivals:
        samples.start(operation)
    for op_id in ends:
        await samples.end(op_id)
    return samples.started


def test_the_engine_gets_two_batches_and_the_rest_waits():
    arrivals = [sample(f"a{number}") for number in range(5)]
    assert asyncio.run(started_after([], *arrivals)) == ["a0", "a1"]
    assert asyncio.run(started_after(["a1"], *arrivals)) == ["a0", "a1", "a2"]


def test_the_queue_of_one_owner_keeps_nothing_of_another_from_the_engine():
    arrivals = [*(sample(f"a{number}") for number in range(5)), *(sample(f"b{number}") for number in range(3))]
    assert asyncio.run(started_after([], *arrivals)) == ["a0", "a1", "b0", "b1"]
    assert asyncio.run(started_after(["b0", "a0"], *arrivals)) == ["a0", "a1", "b0", "b1", "b2", "a2"]


def test_a_request_counts_with_all_its_sequences():
    arrivals = [sample("a0", num_samples=2), sample("a1")]
    assert asyncio.run(started_after([], *arrivals)) == ["a0"]
    assert asyncio.run(started_after(["a0"], *arrivals)) == ["a0", "a1"]


def test_what_is_given_up_while_it_waits_ends_and_takes_nobodys_turn():
    async def scenario() -> Samples:
        samples = Samples()
        for op_id in ("a0", "a1", "a2", "a3", "a4", "b0"):
            samples.start(sample(op_id))
        turns = samples.turns
        turns.cancel("b", "a3")  # not b's
        turns.cancel("b", "a1")
        turns.cancel("c", "a1")
        turns.cancel("a", "a2")
        turns.cancel("a", "a1")
        await samples.end("a0")
        await samples.end("a1")
        return samples

    samples = asyncio.run(scenario())
    assert samples.started == ["a0", "a1", "b0", "a3", "a4"]
    assert {op_id: type(error) for op_id, error in samples.futures.failed.items()} == {"a2": Cancelled}
    assert samples.engine.cancelled == ["a1"]
