"""Training jobs of one share: in order within a run, and a micro-batch of each run in rotation."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from eztinker.engine.trainer import Pass


@dataclass(slots=True, eq=False)
class TrainingJob:
    """One training job in the lane of its run."""

    op_id: str
    model_id: str
    work: Callable[[], object]
    """Returns the result, or a `Pass`, which is then carried out piece by piece."""
    is_step: bool = False
    """Whether the job is an optimizer step."""
    share: str = ""
    """Share whose turns the job takes."""
    longest: int = 0
    """Tokens of the job's longest datum, which may exceed the regular size of a micro-batch."""
    value: object = None
    """The result, once the job has ended."""
    error: Exception | None = None
    """The exception that ended the job."""


class _Lane:
    """The queue of one run: jobs that wait, and the one that has begun but paused."""

    def __init__(self) -> None:
        self.waiting: deque[TrainingJob] = deque()
        self.begun: tuple[TrainingJob, Iterator[bool]] | None = None
        """The job that has begun, and the rest of its pieces."""

    @property
    def next(self) -> TrainingJob:
        return self.waiting[0] if self.begun is None else self.begun[0]


class TrainingQueue:
    """Lanes of runs. An optimizer step right after a job that ends runs with it, because it takes little time."""

    def __init__(self, max_train_tokens: int, announce: Callable[[str], None]) -> None:
        """Start without jobs.

        Args:
            max_train_tokens: tokens in a micro-batch.
            announce: called with the id of a job before every piece of it.
        """
        self._max_train_tokens = max_train_tokens
        self._announce = announce
        self._lanes: dict[str, _Lane] = {}
        """Lanes by model id; the next one is first."""
        self._open: str | None = None
        """Model in the middle of a micro-batch, which goes first because it holds activations."""

    @property
    def is_empty(self) -> bool:
        return not self._lanes

    @property
    def num_waiting(self) -> int:
        return sum(len(lane.waiting) for lane in self._lanes.values())

    @property
    def is_open(self) -> bool:
        """Whether the queue holds the activations of a micro-batch."""
        return self._open is not None

    @property
    def is_at_step(self) -> bool:
        """Whether the next job is an optimizer step, which takes little time."""
        return bool(self._lanes) and self._lanes[self._next].next.is_step

    @property
    def num_tokens(self) -> int:
        """Most tokens of the open micro-batch, or else of the next one."""
        return max(self._max_train_tokens, self._lanes[self._next].next.longest)

    def submit(self, job: TrainingJob) -> None:
        self._lanes.setdefault(job.model_id, _Lane()).waiting.append(job)

    def advance(self) -> list[TrainingJob]:
        """Do one piece of the next run's job.

        Returns:
            The job if it has ended, and an optimizer step right after it.
        """
        model_id = self._next
        lane = self._lanes[model_id]
        ended = []
        job, is_open = lane.next, self._advance(lane)
        if is_open:
            self._open = model_id
            return []
        self._open = None
        if is_open is None:
            ended.append(job)
            if lane.waiting and lane.waiting[0].is_step:
                step = lane.next
                if self._advance(lane) is None:
                    ended.append(step)
        del self._lanes[model_id]
        if lane.waiting or lane.begun is not None:
            self._lanes[model_id] = lane
        return ended

    @property
    def _next(self) -> str:
        """Id of the model whose turn it is."""
        return self._open or next(iter(self._lanes))

    def _advance(self, lane: _Lane) -> bool | None:
        """Do one piece of a lane's job; whether it paused within a micro-batch, None if it has ended."""
        if lane.begun is None:
            job = lane.waiting.popleft()
            lane.begun = job, self._pieces(job)
        job, pieces = lane.begun
        self._announce(job.op_id)
        is_open = next(pieces, None)
        if is_open is None:
            lane.begun = None
        return is_open

    def _pieces(self, job: TrainingJob) -> Iterator[bool]:
        """Run a job piece by piece, to its value or error; yields whether it pauses within a micro-batch."""
        try:
            value = job.work()
            if isinstance(value, Pass):
                yield from value.carry_out(self._max_train_tokens)
                value = value.result()
            job.value = value
        except Exception as error:
            job.error = error
