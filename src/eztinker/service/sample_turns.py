"""Hands samples to the engine owner by owner, so that one owner's long queue delays nobody else's.

The engine takes samples in the order in which they come. So its queue is kept just long enough to fill the next batch,
and the rest waits here, where owners take turns.
"""

from __future__ import annotations

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
        self._turns: Turns[NewOperation] = Turns()

    def start(self, new: NewOperation) -> None:
        """Send an accepted sample to the engine when its owner's turn comes."""
        self._turns.add(new.owner, new)
        self._fill()

    def _fill(self) -> None:
        while self._turns and self._num_sequences < self._max_sequences:
            self._send(self._turns.take())

    def _send(self, new: NewOperation) -> None:
        assert isinstance(new.work, Sample)
        settled = self._operations.settlement(new.op_id)
        if settled is None:
            return  # it ended while it waited
        num_sequences = new.work.request.num_samples
        self._num_sequences += num_sequences
        settled.add_done_callback(lambda _: self._make_room(num_sequences))
        self._operations.follow(new, self._engine.sample(new.work))

    def _make_room(self, num_sequences: int) -> None:
        self._num_sequences -= num_sequences
        self._fill()
