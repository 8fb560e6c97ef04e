"""Queues of samples before the engine, which gets a few batches of each owner ahead.

The engine shares its time between owners. It holds as much of each owner's queue as fills the next batch. The rest
waits here: a sample that is cancelled here costs the engine nothing, and after a death little has to be sent again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from functools import partial

from eztinker.errors import Cancelled, EZTinkerError
from eztinker.protocol.frames import Outcome, Sample
from eztinker.service.execution.engine_process import EngineProcess
from eztinker.service.execution.futures import Futures
from eztinker.service.execution.operation import LiveOperations, Operation

BATCHES_AHEAD = 2
"""Batches of one owner in the engine: the one that is decoded and the one that takes its place."""


@dataclass(slots=True, eq=False)
class _OwnSamples:
    """Samples of one owner, before and in the engine."""

    waiting: deque[Operation] = field(default_factory=deque)
    num_running: int = 0
    """Samples in the engine."""
    num_sequences: int = 0
    """Completions that the samples in the engine come to."""


class SampleTurns:
    """The queues of samples before the engine, one of each owner."""

    def __init__(self, futures: Futures, live: LiveOperations, engine: EngineProcess, *, max_batch_size: int) -> None:
        self._futures = futures
        self._live = live
        self._engine = engine
        self._max_sequences = BATCHES_AHEAD * max_batch_size
        self._owners: dict[str, _OwnSamples] = {}

    def start(self, operation: Operation) -> None:
        """Send an accepted sample to the engine as soon as that has few enough of its owner's."""
        own = self._owners.setdefault(operation.owner, _OwnSamples())
        own.waiting.append(operation)
        self._fill(own)

    def cancel(self, owner: str, op_id: str) -> None:
        """Give up a sample that has no outcome yet; whatever else `op_id` may name is left alone."""
        operation = self._live.get(op_id)
        if operation is None or operation.owner != owner or not isinstance(operation.work, Sample):
            return
        own = self._owners.get(owner, _OwnSamples())
        if operation in own.waiting:
            own.waiting.remove(operation)
            self._futures.fail(operation, Cancelled())
        else:
            self._engine.cancel(operation)

    def _fill(self, own: _OwnSamples) -> None:
        while own.waiting and own.num_sequences < self._max_sequences:
            self._send(own, own.waiting.popleft())

    def _send(self, own: _OwnSamples, operation: Operation) -> None:
        assert isinstance(operation.work, Sample)
        assert operation.outcome is not None
        num_sequences = operation.work.request.num_samples
        own.num_sequences += num_sequences
        own.num_running += 1
        operation.outcome.add_done_callback(lambda _: self._ended(own, operation.owner, num_sequences))
        self._engine.sample(operation).add_done_callback(partial(self._answered, operation))

    def _answered(self, operation: Operation, answer: asyncio.Future[Outcome]) -> None:
        if answer.cancelled():
            return  # the server stops
        error = answer.exception()
        if error is None:
            self._futures.settle(operation, answer.result())
        else:
            assert isinstance(error, EZTinkerError)
            self._futures.fail(operation, error)

    def _ended(self, own: _OwnSamples, owner: str, num_sequences: int) -> None:
        own.num_running -= 1
        own.num_sequences -= num_sequences
        self._fill(own)
        if not own.num_running:
            self._owners.pop(owner, None)
