"""The order in which samples of several owners reach the engine."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np

from eztinker.errors import Cancelled, EZTinkerError
from eztinker.protocol.frames import Sample
from eztinker.service.operations import Done, NewOperation, Operations
from eztinker.service.sample_turns import SampleTurns
from eztinker.types import SampleRequest, SamplingParams


@dataclass
class Recorder(Operations):
    """Operations that end when the test says so."""

    started: list[str] = field(default_factory=list)
    running: dict[str, asyncio.Future] = field(default_factory=dict)
    given_up: dict[str, EZTinkerError | None] = field(default_factory=dict)
    """With the error it ended in; None for what the engine is to give up."""

    def start(self, new: NewOperation) -> asyncio.Future:
        self.started.append(new.op_id)
        self.running[new.op_id] = asyncio.get_running_loop().create_future()
        return self.running[new.op_id]

    def refuse(self, new: NewOperation, error: EZTinkerError) -> None:
        self.given_up[new.op_id] = error

    def cancel(self, owner: str, op_id: str) -> None:
        self.given_up[op_id] = None

    def end(self, op_id: str) -> None:
        self.running[op_id].set_result(Done(kind="sample", media_type="", body=b""))


def sample(op_id: str, *, num_samples: int = 1) -> NewOperation:
    request = SampleRequest(prompt=np.array([1]), num_samples=num_samples, params=SamplingParams(max_tokens=1))
    work = Sample(op_id=op_id, base_model="tiny", directory=None, request=request)
    return NewOperation(
        op_id=op_id, owner=op_id[0], lane="lane", seq_id=0, kind="sample", work=work, finish=lambda _: _never()
    )


def _never():
    raise AssertionError("no engine here")


async def started_after(ends: list[str], *arrivals: NewOperation) -> list[str]:
    """What has gone to an engine of one sequence per batch when `arrivals` came and then `ends` ended."""
    operations = Recorder()
    turns = SampleTurns(operations, max_batch_size=1)
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


def test_a_newcomer_passes_the_queue_of_another_owner():
    arrivals = [*(sample(f"a{number}") for number in range(5)), sample("b0"), sample("b1")]
    order = asyncio.run(started_after(["a0", "a1", "a2", "b0", "a3"], *arrivals))
    assert order == ["a0", "a1", "a2", "b0", "a3", "b1", "a4"]


def test_a_request_counts_with_all_its_sequences():
    arrivals = [sample("a0", num_samples=2), sample("a1")]
    assert asyncio.run(started_after([], *arrivals)) == ["a0"]
    assert asyncio.run(started_after(["a0"], *arrivals)) == ["a0", "a1"]


def test_what_is_given_up_while_it_waits_ends_and_takes_nobodys_turn():
    async def scenario() -> Recorder:
        operations = Recorder()
        turns = SampleTurns(operations, max_batch_size=1)
        for op_id in ("a0", "a1", "a2", "b0", "b1", "a3"):
            turns.start(sample(op_id))
        turns.cancel("b", "a2")  # not b's
        turns.cancel("b", "b0")
        turns.cancel("a", "a1")
        operations.end("a0")
        operations.end("a1")
        await asyncio.sleep(0)
        return operations

    operations = asyncio.run(scenario())
    assert operations.started == ["a0", "a1", "a2", "b1"]
    assert isinstance(operations.given_up.pop("b0"), Cancelled)
    assert operations.given_up == {"a1": None}
