"""Feeds the accepted operations of every training run to the engine, each run in its own order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from eztinker.errors import NotFound, SequenceGap
from eztinker.protocol.frames import ForwardBackward
from eztinker.service.clock import Clock
from eztinker.service.execution.lanes import Lane
from eztinker.service.execution.new_operation import NewOperation, Refused
from eztinker.service.execution.operations import Operations
from eztinker.service.execution.recovery import UnfinishedLane
from eztinker.service.execution.run_feed import RunFeed

GAP_CHECK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _LiveRun:
    lane: Lane[NewOperation | Refused]
    feed: RunFeed

    def start(self, released: list[NewOperation | Refused]) -> None:
        for new in released:
            if isinstance(new, NewOperation):
                self.feed.start(new)


class RunLanes:
    """One lane per run that takes operations, and the feed behind it."""

    def __init__(self, operations: Operations, new_feed: Callable[[str], RunFeed], clock: Clock) -> None:
        self._operations = operations
        self._new_feed = new_feed
        self._clock = clock
        self._runs: dict[str, _LiveRun] = {}

    def open(self, model_id: str, *, last_run: int = 0) -> None:
        """The run takes operations from now on, those above `last_run`."""
        self._runs[model_id] = _LiveRun(Lane(first=last_run + 1), self._new_feed(model_id))

    def start_first(self, new: NewOperation) -> None:
        """Start the operation that begins a run; it has no place in the lane."""
        self._runs[new.lane].feed.start(new)

    def resume(self, unfinished: UnfinishedLane) -> None:
        """Go on with a run of an earlier server, where it was."""
        self.open(unfinished.model_id, last_run=unfinished.last_run)
        run = self._runs[unfinished.model_id]
        for new in unfinished.operations:
            self._operations.expect(new)
            if new.seq_id is None or new.seq_id == 0:
                run.feed.start(new)
            else:
                self._arrive(run, new, is_chunked=isinstance(new.work, ForwardBackward))

    def close(self, model_id: str) -> None:
        """The run takes no more operations; those that wait for a missing one fail."""
        run = self._runs.pop(model_id, None)
        for new in run.lane.release_all() if run is not None else []:
            if isinstance(new, NewOperation):
                error = SequenceGap(f"The run {model_id} ended before operations with lower numbers had arrived")
                self._operations.fail(new, error)

    async def submit(self, new: NewOperation | Refused, *, is_chunked: bool) -> str:
        """Accept `new`, start whatever it lets start, and return the id of its promise."""
        op_id = await self._operations.accept(new)
        if op_id != new.op_id:
            return op_id
        run = self._runs.get(new.lane)
        if run is None:
            if isinstance(new, NewOperation):
                self._operations.fail(new, NotFound(f"The training run {new.lane} ended before this request arrived"))
        elif new.seq_id is None:
            run.start([new])
        else:
            self._arrive(run, new, is_chunked=is_chunked)
        return op_id

    async def park(self, *, seconds: float) -> None:
        """Finish what has been started and snapshot every run, as far as the time allows; then send nothing more."""
        parking = [asyncio.create_task(run.feed.park()) for run in self._runs.values()]
        if parking:
            _, late = await asyncio.wait(parking, timeout=seconds)
            for task in late:
                task.cancel()
        for run in self._runs.values():
            run.feed.stop()

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
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
            for run in list(self._runs.values()):
                run.start(run.lane.release_due(now))

    def _arrive(self, run: _LiveRun, new: NewOperation | Refused, *, is_chunked: bool) -> None:
        assert new.seq_id is not None
        try:
            run.start(run.lane.arrive(new.seq_id, new, is_chunked=is_chunked, now=self._clock.monotonic()))
        except SequenceGap as error:
            if isinstance(new, NewOperation):
                self._operations.fail(new, error)
