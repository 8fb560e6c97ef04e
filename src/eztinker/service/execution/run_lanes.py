"""Feeds the accepted operations of every training run to the engine, each run in its own order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from eztinker.errors import EZTinkerError, NotFound, SequenceGap
from eztinker.service.clock import Clock
from eztinker.service.execution.futures import Futures
from eztinker.service.execution.lanes import Lane
from eztinker.service.execution.operation import Operation
from eztinker.service.execution.recovery import UnfinishedLane
from eztinker.service.execution.run_feed import RunFeed

GAP_CHECK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _LiveRun:
    lane: Lane[Operation]
    feed: RunFeed

    def start(self, released: list[Operation]) -> None:
        for operation in released:
            if not operation.is_refused:
                self.feed.start(operation)


class RunLanes:
    """One lane per run that takes operations, and the feed behind it."""

    def __init__(self, futures: Futures, new_feed: Callable[[str], RunFeed], clock: Clock) -> None:
        self._futures = futures
        self._new_feed = new_feed
        self._clock = clock
        self._runs: dict[str, _LiveRun] = {}

    def open(self, model_id: str, *, last_run: int = 0) -> None:
        """The run takes operations from now on, those above `last_run`."""
        self._runs[model_id] = _LiveRun(Lane(first=last_run + 1), self._new_feed(model_id))

    def start_first(self, operation: Operation) -> None:
        """Start the operation that begins a run; it has no place in the lane."""
        self._runs[operation.lane].feed.start(operation)

    def resume(self, unfinished: UnfinishedLane) -> None:
        """Go on with a run of an earlier server, where it was."""
        self.open(unfinished.model_id, last_run=unfinished.last_run)
        run = self._runs[unfinished.model_id]
        for operation in unfinished.operations:
            self._futures.expect(operation)
            if operation.seq_id is None or operation.seq_id == 0:
                run.feed.start(operation)
            else:
                self._arrive(run, operation.seq_id, operation)

    def close(self, model_id: str) -> None:
        """The run takes no more operations; those that wait for a missing one fail."""
        run = self._runs.pop(model_id, None)
        error = SequenceGap(f"The run {model_id} ended before operations with lower numbers had arrived")
        for operation in run.lane.release_all() if run is not None else []:
            self._fail(operation, error)

    async def submit(self, operation: Operation) -> str:
        """Accept `operation`, start whatever it lets start, and return the id of its future."""
        op_id = await self._futures.accept(operation)
        if op_id != operation.op_id:
            return op_id
        run = self._runs.get(operation.lane)
        if run is None:
            self._fail(operation, NotFound(f"The training run {operation.lane} ended before this request arrived"))
        elif operation.seq_id is None:
            run.start([operation])
        else:
            self._arrive(run, operation.seq_id, operation)
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

    def _arrive(self, run: _LiveRun, seq_id: int, operation: Operation) -> None:
        now = self._clock.monotonic()
        try:
            run.start(run.lane.arrive(seq_id, operation, is_chunked=operation.is_chunked, now=now))
        except SequenceGap as error:
            self._fail(operation, error)

    def _fail(self, operation: Operation, error: EZTinkerError) -> None:
        if not operation.is_refused:  # else the log has its outcome already
            self._futures.fail(operation, error)
