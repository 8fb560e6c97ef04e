"""A sample whose tokens are handed on while it is drawn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from eztinker.errors import ServerError
from eztinker.oplog.rows import Failure
from eztinker.protocol.frames import Progress
from eztinker.protocol.sampling_codec import result_as_json
from eztinker.service.engine_process import EngineProcess
from eztinker.service.operations import Done, Operations
from eztinker.service.sample_turns import SampleTurns
from eztinker.types import Record

_HOLD_SECONDS = 3600.0
"""For the outcome; a stream goes on for as long as its client stays."""


class Drawn(Record):
    """Tokens in the order of the completion; the last of a stream come with the reason why it ended."""

    tokens: list[int]
    stop_reason: str | None = None


class SampleStream:
    """The tokens of one accepted sample. Whoever stops reading gives the sample up."""

    def __init__(
        self, owner: str, op_id: str, engine: EngineProcess, operations: Operations, turns: SampleTurns
    ) -> None:
        self._owner = owner
        self._op_id = op_id
        self._engine = engine
        self._operations = operations
        self._turns = turns

    async def drawn(self) -> AsyncGenerator[Drawn | Failure, None]:
        """Pieces as they come, to the one with the reason to stop, or to a failure."""
        news: asyncio.Queue[Progress | None] = asyncio.Queue()
        outcome = asyncio.create_task(
            self._operations.outcome(self._owner, self._op_id, hold_seconds=_HOLD_SECONDS), name="streamed sample"
        )
        outcome.add_done_callback(lambda _: news.put_nowait(None))
        num_told = 0
        try:
            with self._engine.watched(self._op_id, news.put_nowait):
                while (event := await news.get()) is not None:
                    # An engine that took over draws the same tokens again; what was told is not told twice.
                    if new := event.tokens[max(0, num_told - event.start) :]:
                        num_told += len(new)
                        yield Drawn(tokens=new)
            yield _end(await outcome, num_told)
        finally:
            if not outcome.done():
                outcome.cancel()
                self._turns.cancel(self._owner, self._op_id)


def _end(outcome: Done | Failure | None, num_told: int) -> Drawn | Failure:
    if outcome is None:
        return Failure.of(ServerError("The server stops; ask again when it is back"))
    if isinstance(outcome, Failure):
        return outcome
    sequence = result_as_json(outcome.body)["sequences"][0]
    return Drawn(tokens=sequence["tokens"][num_told:], stop_reason=sequence["stop_reason"])
