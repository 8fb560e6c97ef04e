"""What a stream tells of a sample, whatever the engine reports on the way and whoever reads."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pytest

from eztinker.errors import EZTinkerError, NotFound, ResultGone
from eztinker.oplog.rows import Failure
from eztinker.protocol.frames import Progress
from eztinker.protocol.sampling_codec import encode_result
from eztinker.service.execution.engine_process import EngineProcess
from eztinker.service.execution.futures import Done, Futures
from eztinker.service.sampling.sample_streams import Drawn, SampleStream
from eztinker.service.sampling.sample_turns import SampleTurns
from eztinker.types import OperationKind, SampledSequence, SampleResult

TOKENS = [11, 12, 13, 14]
END = ([], "length")


class Outcomes(Futures):
    """Gives one outcome as soon as it is asked for it."""

    def __init__(self, error: EZTinkerError | None = None) -> None:
        self.error = error

    async def outcome(self, owner: str, op_id: str, *, hold_seconds: float) -> Done | Failure | None:
        if self.error is not None:
            raise self.error
        sequence = SampledSequence(
            tokens=np.array(TOKENS, np.int32), logprobs=np.zeros(4, np.float32), stop_reason="length"
        )
        return Done(kind=OperationKind.SAMPLE, media_type="", body=encode_result(SampleResult(sequences=[sequence])))


@dataclass
class Turns(SampleTurns):
    """Notes what is given up."""

    cancelled: list[str] = field(default_factory=list)

    def cancel(self, owner: str, op_id: str) -> None:
        self.cancelled.append(op_id)


class Engine(EngineProcess):
    """Watched, and never started."""

    def __init__(self) -> None:
        self._watchers = {}

    def report(self, start: int, tokens: list[int]) -> None:
        self._watchers["op"](Progress(op_id="op", start=start, tokens=tokens))


def told(
    reports: list[tuple[int, list[int]]], error: EZTinkerError | None = None
) -> list[tuple[list[int], str | None]]:
    """What comes of a sample that reported so much before anybody read; a failure as its sentence."""

    async def scenario() -> list[tuple[list[int], str | None]]:
        engine = Engine()
        stream = SampleStream("ann", "op", engine, Outcomes(error), Turns())
        for start, tokens in reports:
            engine.report(start, tokens)
        pieces = [piece async for piece in stream.drawn()]
        return [(p.tokens, p.stop_reason) if isinstance(p, Drawn) else ([], p.message) for p in pieces]

    return asyncio.run(scenario())


def test_what_is_drawn_before_anybody_reads_is_told():
    assert told([(0, [11]), (1, [12, 13, 14])]) == [([11], None), ([12, 13, 14], None), END]


def test_an_engine_that_takes_over_has_nothing_told_twice():
    assert told([(0, [11, 12]), (0, [11]), (1, [12, 13])]) == [([11, 12], None), ([13], None), ([14], "length")]


def test_what_lies_behind_a_gap_is_told_at_the_end():
    assert told([(2, [13, 14])]) == [(TOKENS, "length")]
    assert told([(0, [11]), (2, [13])]) == [([11], None), ([12, 13, 14], "length")]


def test_tokens_that_are_not_those_of_the_result_end_in_an_error():
    *_, (tokens, message) = told([(0, [11, 99])])
    assert (tokens, message) == ([], "The tokens that were streamed are not those of the result; sample again")


@pytest.mark.parametrize("error", [NotFound("not there"), ResultGone("gone")])
def test_an_outcome_that_is_not_there_is_told_as_a_line(error: EZTinkerError):
    assert told([], error) == [([], error.message)]


@pytest.mark.parametrize(("is_repeat", "cancelled"), [(False, ["op"]), (True, [])])
def test_only_the_stream_that_began_a_sample_gives_it_up(is_repeat: bool, cancelled: list[str]):
    """A closed one is never read from; the other is still told of the sample."""

    async def scenario() -> None:
        engine, turns = Engine(), Turns()
        if is_repeat:
            engine.watch("op", lambda _: None)
        SampleStream("ann", "op", engine, Outcomes(), turns, is_repeat=is_repeat).close()
        assert turns.cancelled == cancelled
        assert engine.is_watched("op") is is_repeat

    asyncio.run(scenario())
