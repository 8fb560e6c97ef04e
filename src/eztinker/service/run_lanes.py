"""Feeds the accepted operations of every training run to the engine, each run in its own order."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

from eztinker.errors import SequenceGap
from eztinker.service.clock import Clock
from eztinker.service.engine_process import EngineProcess
from eztinker.service.lanes import Lane
from eztinker.service.operations import NewOperation, Operations

GAP_CHECK_SECONDS = 1.0


@dataclass(slots=True)
class _LiveRun:
    """A run whose state is in the engine."""

    epoch: int
    lane: Lane[NewOperation] = field(default_factory=Lane)


class RunLanes:
    """One lane per run that lives in the engine. A run without a lane, or of an older engine, is lost."""

    def __init__(self, operations: Operations, engine: EngineProcess, clock: Clock) -> None:
        self._operations = operations
        self._engine = engine
        self._clock = clock
        self._runs: dict[str, _LiveRun] = {}

    def open(self, model_id: str) -> None:
        """The run exists from now on, in the engine of this moment."""
        self._runs[model_id] = _LiveRun(self._engine.epoch)

    def close(self, model_id: str) -> None:
        """The run takes no more operations; those that wait for a missing one fail."""
        run = self._runs.pop(model_id, None)
        for new in run.lane.release_all() if run is not None else []:
            error = SequenceGap(f"The run {model_id} ended before operations with lower numbers had arrived")
            self._operations.refuse(new, error)

    async def submit(self, new: NewOperation, *, is_chunked: bool) -> str:
        """Accept `new`, start whatever it lets start, and return the id of its promise."""
        op_id = await self._operations.accept(new)
        if op_id != new.op_id:
            return op_id
        run = self._runs.get(new.lane)
        if run is None or new.seq_id is None:
            self._start(new.lane, [new])
            return op_id
        try:
            released = run.lane.arrive(new.seq_id, new, is_chunked=is_chunked, now=self._clock.monotonic())
        except SequenceGap as error:
            self._operations.refuse(new, error)
            return op_id
        self._start(new.lane, released)
        return op_id

    @contextlib.asynccontextmanager
    async def watched(self):
        """Skips overdue gaps for the length of the block."""
        watch = asyncio.create_task(self._watch_gaps(), name="gap watch")
        try:
            yield
        finally:
            watch.cancel()

    async def _watch_gaps(self) -> None:
        while True:
            await asyncio.sleep(GAP_CHECK_SECONDS)
            now = self._clock.monotonic()
            for model_id, run in list(self._runs.items()):
                self._start(model_id, run.lane.release_due(now))

    def _start(self, model_id: str, released: list[NewOperation]) -> None:
        run = self._runs.get(model_id)
        is_alive = run is not None and run.epoch == self._engine.epoch
        for new in released:
            if is_alive or isinstance(new.work, Exception):
                self._operations.start(new)
            else:
                self._operations.lose(new)
