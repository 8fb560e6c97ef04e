"""Hands samples to the engine, a few batches of each owner ahead.

The engine shares its time between owners. It holds as much of each one's queue as fills the next batch, and the rest
waits here: what is given up here costs the engine nothing, and what an engine that dies had is soon sent again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from eztinker.errors import Cancelled
from eztinker.protocol.frames import Sample
from eztinker.service.execution.engine_process import EngineProcess
from eztinker.service.execution.new_operation import NewOperation
from eztinker.service.execution.operations import Operations

BATCHES_AHEAD = 2
"""Batches of one owner in the engine: the one that is decoded and the one that takes its place."""


@dataclass(slots=True, eq=False)
class _OwnSamples:
    """What one owner has asked for."""

    waiting: deque[NewOperation] = field(default_factory=deque)
    running: set[str] = field(default_factory=set)
    """Ids of the samples in the engine."""
    num_sequences: int = 0
    """Of those in the engine."""


class SampleTurns:
    def __init__(self, operations: Operations, engine: EngineProcess, *, max_batch_size: int) -> None:
        self._operations = operations
        self._engine = engine
        self._max_sequences = BATCHES_AHEAD * max_batch_size
        self._owners: dict[str, _OwnSamples] = {}

    def start(self, new: NewOperation) -> None:
        """Send an accepted sample to the engine as soon as that has few enough of its owner's."""
        own = self._owners.setdefault(new.owner, _OwnSamples())
        own.waiting.append(new)
        self._fill(own)

    def cancel(self, owner: str, op_id: str) -> None:
        """Give up a sample that has no outcome yet; whatever else `op_id` may name is left alone."""
        own = self._owners.get(owner, _OwnSamples())
        if op_id in own.running:
            self._engine.cancel(op_id)
            return
        for new in [new for new in own.waiting if new.op_id == op_id]:
            own.waiting.remove(new)
            self._operations.fail(new, Cancelled())

    def _fill(self, own: _OwnSamples) -> None:
        while own.waiting and own.num_sequences < self._max_sequences:
            self._send(own, own.waiting.popleft())

    def _send(self, own: _OwnSamples, new: NewOperation) -> None:
        assert isinstance(new.work, Sample)
        num_sequences = new.work.request.num_samples
        own.num_sequences += num_sequences
        own.running.add(new.op_id)
        outcome = self._operations.follow(new, self._engine.sample(new.work, owner=new.owner))
        outcome.add_done_callback(lambda _: self._ended(own, new, num_sequences))

    def _ended(self, own: _OwnSamples, new: NewOperation, num_sequences: int) -> None:
        own.running.remove(new.op_id)
        own.num_sequences -= num_sequences
        self._fill(own)
        if not own.running:
            self._owners.pop(new.owner, None)
