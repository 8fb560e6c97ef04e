"""Hands samples to the engine owner by owner, so that one owner's long queue delays nobody else's.

The engine takes samples in the order in which they come. So its queue is kept just long enough to fill the next batch,
and the rest waits here, where owners take turns.
"""

from __future__ import annotations

from eztinker.errors import Cancelled
from eztinker.protocol.frames import Sample
from eztinker.service.engine_process import EngineProcess
from eztinker.service.fair_share import Turns
from eztinker.service.new_operation import NewOperation
from eztinker.service.operations import Operations

BATCHES_AHEAD = 2
"""Batches in the engine: the one that is decoded and the one that takes its place."""


class SampleTurns:
    def __init__(self, operations: Operations, engine: EngineProcess, *, max_batch_size: int) -> None:
        self._operations = operations
        self._engine = engine
        self._max_sequences = BATCHES_AHEAD * max_batch_size
        self._num_sequences = 0
        """In the engine."""
        self._turns: Turns[str] = Turns()
        self._waiting: dict[str, NewOperation] = {}
        """By id, which is what takes turns."""
        self._running: dict[str, str] = {}
        """The owner of each sample in the engine."""

    def start(self, new: NewOperation) -> None:
        """Send an accepted sample to the engine when its owner's turn comes."""
        self._turns.add(new.owner, new.op_id)
        self._waiting[new.op_id] = new
        self._fill()

    def cancel(self, owner: str, op_id: str) -> None:
        """Give up a sample that has no outcome yet; whatever else `op_id` may name is left alone."""
        waiting = self._waiting.get(op_id)
        if waiting is not None and waiting.owner == owner:
            del self._waiting[op_id]
            self._turns.remove(owner, op_id)
            self._operations.fail(waiting, Cancelled())
        elif self._running.get(op_id) == owner:
            self._engine.cancel(op_id)

    def _fill(self) -> None:
        while self._turns and self._num_sequences < self._max_sequences:
            self._send(self._waiting.pop(self._turns.take()))

    def _send(self, new: NewOperation) -> None:
        assert isinstance(new.work, Sample)
        num_sequences = new.work.request.num_samples
        self._num_sequences += num_sequences
        self._running[new.op_id] = new.owner
        outcome = self._operations.follow(new, self._engine.sample(new.work))
        outcome.add_done_callback(lambda _: self._ended(new.op_id, num_sequences))

    def _ended(self, op_id: str, num_sequences: int) -> None:
        del self._running[op_id]
        self._num_sequences -= num_sequences
        self._fill()
