"""Streams of samples: tokens are passed on while they are drawn."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator

from eztinker.errors import EZTinkerError, ServerError
from eztinker.oplog.rows import Failure
from eztinker.protocol.frames import Progress
from eztinker.protocol.sampling_codec import result_as_json
from eztinker.service.execution.engine_process import EngineProcess
from eztinker.service.execution.futures import Futures
from eztinker.service.execution.plans import Done
from eztinker.service.sampling.sample_turns import SampleTurns
from eztinker.types import Record

log = logging.getLogger(__name__)

_HOLD_SECONDS = 3600.0
"""Time to wait for the outcome; a stream goes on for as long as its client stays."""


class Drawn(Record):
    """Tokens in the order of the completion; the last of a stream come with the reason why it ended."""

    tokens: list[int]
    stop_reason: str | None = None


class SampleStream:
    """The tokens of one sample, for one reader, who closes it."""

    def __init__(
        self,
        owner: str,
        op_id: str,
        engine: EngineProcess,
        futures: Futures,
        turns: SampleTurns,
        *,
        is_repeat: bool = False,
    ) -> None:
        """Watch a sample from its first token.

        Args:
            op_id: of a sample that the engine does not have yet, for what it says before it is watched is lost.
            is_repeat: another request began the sample; this one gets all tokens at the end, and lets it go on.
        """
        self.op_id = op_id
        self._owner = owner
        self._engine = engine
        self._futures = futures
        self._turns = turns
        self._is_repeat = is_repeat
        self._has_outcome = False
        self._news: asyncio.Queue[Progress | None] = asyncio.Queue()
        if not is_repeat:
            engine.watch(op_id, self._news.put_nowait)

    async def drawn(self) -> AsyncGenerator[Drawn | Failure, None]:
        """Yield tokens as they are drawn, until the piece with the stop reason, or a failure."""
        outcome = asyncio.create_task(
            self._futures.outcome(self._owner, self.op_id, hold_seconds=_HOLD_SECONDS), name="streamed sample"
        )
        outcome.add_done_callback(lambda _: self._news.put_nowait(None))
        told: list[int] = []
        try:
            while (event := await self._news.get()) is not None:
                # An engine that took over draws the same tokens again; what was told is not told twice. Behind a gap
                # nothing is told before the end, which has all tokens.
                if event.start <= len(told) and (new := event.tokens[len(told) - event.start :]):
                    told += new
                    yield Drawn(tokens=new)
            self._has_outcome = True
            yield await _end(outcome, told)
        finally:
            outcome.cancel()

    def close(self) -> None:
        """Give the sample up, unless it has ended or is another request's."""
        if not self._is_repeat:
            self._engine.unwatch(self.op_id)
            if not self._has_outcome:
                self._turns.cancel(self._owner, self.op_id)


async def _end(outcome: asyncio.Task[Done | Failure | None], told: list[int]) -> Drawn | Failure:
    try:
        ended = await outcome
    except EZTinkerError as error:  # the head of the answer has been sent
        return Failure.of(error)
    if ended is None:
        return Failure.of(ServerError("The server stops; ask again when it is back"))
    if isinstance(ended, Failure):
        return ended
    sequence = result_as_json(ended.body)["sequences"][0]
    if sequence["tokens"][: len(told)] != told:
        log.error("The tokens of a stream are not those of its result", extra={"event": "stream_differs"})
        return Failure.of(ServerError("The tokens that were streamed are not those of the result; sample again"))
    return Drawn(tokens=sequence["tokens"][len(told) :], stop_reason=sequence["stop_reason"])
