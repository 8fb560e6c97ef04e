"""How much of each owner's queue the engine gets."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from eztinker.errors import Cancelled, EZTinkerError
from eztinker.oplog.rows import SamplingSession
from eztinker.protocol.frames import Sample
from eztinker.service.execution.engine_process import Answer, EngineProcess
from eztinker.service.execution.new_operation import NewOperation
from eztinker.service.execution.operations import Done, Operations
from eztinker.service.execution.plans import SamplePlan
from eztinker.service.sampling.sample_turns import SampleTurns
from eztinker.types import OperationKind, SampleRequest, SamplingParams


@dataclass
class Recorder(Operations):
    """Operations that end when the test says so."""

    started: list[str] = field(default_factory=list)
    running: dict[str, asyncio.Future] = field(default_factory=dict)
    failed: dict[str, EZTinkerError] = field(default_factory=dict)

    def follow(self, new: NewOperation, answer: asyncio.Future[Answer]) -> asyncio.Future:
        self.started.append(new.op_id)
        self.running[new.op_id] = asyncio.get_running_loop().create_future()
        return self.running[new.op_id]

    def fail(self, new: NewOperation, error: EZTinkerError) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.failed[new.op_id] = error

    def end(self, op_id: str) -> None:
        self.running[op_id].set_result(Done(kind=OperationKind.SAMPLE, media_type="", body=b""))


@dataclass
class Engine(EngineProcess):
    """Takes samples and never answers."""

    cancelled: list[str] = field(default_factory=list)

    def sample(self, command: Sample, *, owner: str) -> asyncio.Future[Answer]:
        return asyncio.get_running_loop().create_future()

    def cancel(self, op_id: str) -> None:
        self.cancelled.append(op_id)


def sample(op_id: str, *, num_samples: int = 1) -> NewOperation:
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
    return NewOperation(
        op_id=op_id, owner=op_id[0], lane="lane", seq_id=0, kind=OperationKind.SAMPLE, work=work, plan=plan
    )


async def started_after(ends: list[str], *arrivals: NewOperation) -> list[str]:
    """What has gone to an engine of one sequence per batch when `arrivals` came and then `ends` ended."""
    operations = Recorder()
    turns = SampleTurns(operations, Engine(), max_batch_size=1)
    for new in arrivals:
        turns.start(new)
    for op_id in ends:
        operations.end(op_id)
        await asyncio.sleep(0)
    return operations.started


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
    async def scenario() -> tuple[Recorder, Engine]:
        operations, engine = Recorder(), Engine()
        turns = SampleTurns(operations, engine, max_batch_size=1)
        for op_id in ("a0", "a1", "a2", "a3", "a4", "b0"):
            turns.start(sample(op_id))
        turns.cancel("b", "a3")  # not b's
        turns.cancel("b", "a1")
        turns.cancel("c", "a1")
        turns.cancel("a", "a2")
        turns.cancel("a", "a1")
        operations.end("a0")
        operations.end("a1")
        await asyncio.sleep(0)
        return operations, engine

    operations, engine = asyncio.run(scenario())
    assert operations.started == ["a0", "a1", "b0", "a3", "a4"]
    assert {op_id: type(error) for op_id, error in operations.failed.items()} == {"a2": Cancelled}
    assert engine.cancelled == ["a1"]
