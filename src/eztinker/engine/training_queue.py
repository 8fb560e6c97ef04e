"""The training operations of one share: in order within a run, a micro-batch of each run in rotation."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from eztinker.engine.trainer import Pass


@dataclass(slots=True, eq=False)
class Operation:
    """One training operation in its run's lane."""

    op_id: str
    model_id: str
    work: Callable[[], object]
    """Gives the result, or a `Pass`, which is then carried out piece by piece."""
    is_step: bool = False
    """An optimizer step."""
    share: str = ""
    """Whose turns it takes."""
    longest: int = 0
    """Tokens of its longest datum, which may be more than a micro-batch has otherwise."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an operation or a sampling request ended: its result, or the exception it raised."""

    op_id: str
    value: object = None
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class _Lane:
    """One run's operations, and the one that has been begun, if it gave way in the middle."""

    waiting: deque[Operation] = field(default_factory=deque)
    begun: tuple[Operation, Iterator[bool | Outcome]] | None = None
    """It, and the rest of its pieces."""

    @property
    def next(self) -> Operation:
        return self.waiting[0] if self.begun is None else self.begun[0]


class TrainingQueue:
    """Lanes of runs. A step that waits behind the operation that ends goes with it, for it takes little time."""

    def __init__(self, max_train_tokens: int, announce: Callable[[str], None]) -> None:
        """`announce` is told the id of the operation that is about to be worked on, before every piece of it."""
        self._max_train_tokens = max_train_tokens
        self._announce = announce
        self._lanes: dict[str, _Lane] = {}
        """The next one is first."""
        self._open: str | None = None
        """The run with a micro-batch that has been begun. It goes first, for the activations that it holds."""

    @property
    def is_empty(self) -> bool:
        return not self._lanes

    @property
    def num_waiting(self) -> int:
        return sum(len(lane.waiting) for lane in self._lanes.values())

    @property
    def is_open(self) -> bool:
        """It holds the activations of a micro-batch."""
        return self._open is not None

    @property
    def is_at_step(self) -> bool:
        """An optimizer step is next, which takes little time."""
        return bool(self._lanes) and self._lanes[self._next].next.is_step

    @property
    def num_tokens(self) -> int:
        """Tokens that the micro-batch which is open, or else the next one, may have."""
        return max(self._max_train_tokens, self._lanes[self._next].next.longest)

    def submit(self, operation: Operation) -> None:
        self._lanes.setdefault(operation.model_id, _Lane()).waiting.append(operation)

    def advance(self) -> list[Outcome]:
        """One piece of the next run's operation; gives what that ended, a step that waited behind it included."""
        model_id = self._next
        lane = self._lanes[model_id]
        piece = self._advance(lane)
        if piece is True:
            self._open = model_id
            return []
        self._open = None
        outcomes = [piece] if isinstance(piece, Outcome) else []
        if outcomes and lane.waiting and lane.waiting[0].is_step:
            outcomes += [step for step in [self._advance(lane)] if isinstance(step, Outcome)]
        del self._lanes[model_id]
        if lane.waiting or lane.begun is not None:
            self._lanes[model_id] = lane
        return outcomes

    @property
    def _next(self) -> str:
        """The run whose turn it is."""
        return self._open or next(iter(self._lanes))

    def _advance(self, lane: _Lane) -> bool | Outcome:
        if lane.begun is None:
            operation = lane.waiting.popleft()
            lane.begun = operation, self._pieces(operation)
        operation, pieces = lane.begun
        self._announce(operation.op_id)
        piece = next(pieces)
        if isinstance(piece, Outcome):
            lane.begun = None
        return piece

    def _pieces(self, operation: Operation) -> Iterator[bool | Outcome]:
        """The work of an operation, and whether it pauses within a micro-batch; last comes its outcome."""
        try:
            value = operation.work()
            if isinstance(value, Pass):
                yield from value.carry_out(self._max_train_tokens)
                value = value.result()
        except Exception as error:
            yield Outcome(operation.op_id, error=error)
        else:
            yield Outcome(operation.op_id, value)
