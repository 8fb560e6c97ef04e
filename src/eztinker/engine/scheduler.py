"""One engine for both kinds of work: it takes turns between training and sampling, so that neither stalls the other.

Training operations keep their order per model; models take turns, one operation each. A step that waits behind it goes
with it, for a step takes little time; both are reported together, so that the server stores them in one commit.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from eztinker.engine.sample_job import SampleJob
from eztinker.engine.sampler import Sampler
from eztinker.engine.trainer import Pass
from eztinker.types import EngineStatus

SHORTEST_TURN_SECONDS = 0.05
"""Sampling keeps the processor for at least this long before training may have it back."""


@dataclass(slots=True, eq=False)
class Operation:
    """One training operation in its model's lane."""

    op_id: str
    model_id: str
    work: Callable[[], object]
    """Gives the result, or a `Pass`, which is then carried out micro-batch by micro-batch."""
    is_step: bool = False
    """An optimizer step."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an operation or a sampling request ended: its result, or the exception it raised."""

    op_id: str
    value: object = None
    error: Exception | None = None


class Scheduler:
    """Queues of one engine. `turn` does a bounded piece of work and gives what it finished."""

    def __init__(
        self,
        max_train_tokens: int,
        *,
        on_start: Callable[[str], None] = lambda op_id: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_start` is told the id of each training operation right before it begins."""
        self._max_train_tokens = max_train_tokens
        self._on_start = on_start
        self._clock = clock
        self._lanes: dict[str, deque[Operation]] = {}
        self._samplers: list[Sampler] = []
        self._training: Iterator[list[Outcome]] | None = None

    def add_sampler(self, sampler: Sampler) -> None:
        self._samplers.append(sampler)

    def submit(self, operation: Operation) -> None:
        self._lanes.setdefault(operation.model_id, deque()).append(operation)

    def cancel(self, op_id: str) -> bool:
        """Drop a sampling request; False if none has this id."""
        return any(sampler.cancel(op_id) for sampler in self._samplers)

    @property
    def is_idle(self) -> bool:
        return self._training is None and not self._lanes and all(sampler.is_idle for sampler in self._samplers)

    @property
    def status(self) -> EngineStatus:
        return EngineStatus(
            running_samples=sum(sampler.num_running for sampler in self._samplers),
            waiting_samples=sum(sampler.num_waiting for sampler in self._samplers),
            waiting_operations=sum(len(lane) for lane in self._lanes.values()),
        )

    def news(self) -> list[tuple[SampleJob, list[int]]]:
        """What streamed samples have drawn since this was last asked, as of `Sampler.news`."""
        return [each for sampler in self._samplers for each in sampler.news()]

    def turn(self) -> list[Outcome]:
        """One micro-batch of training, then sampling for as long as that took."""
        started = self._clock()
        outcomes = self._train()
        trained_seconds = self._clock() - started
        return outcomes + self._sample(self._clock() + max(trained_seconds, SHORTEST_TURN_SECONDS))

    def _train(self) -> list[Outcome]:
        if self._training is None and self._lanes:
            self._training = self._run_heads()
        if self._training is None:
            return []
        outcomes = next(self._training, None)
        if outcomes is None:
            self._training = None
            return []
        return outcomes

    def _sample(self, until: float) -> list[Outcome]:
        """Sampler steps until the time is up or something finished, which callers may be waiting for."""
        outcomes: list[Outcome] = []
        while not outcomes and self._clock() < until:
            busy = [sampler for sampler in self._samplers if not sampler.is_idle]
            if not busy:
                break
            for sampler in busy:
                outcomes += _step(sampler)
        return outcomes

    def _run_heads(self) -> Iterator[list[Outcome]]:
        """Run the first operation of every lane, one after another, each with the step behind it."""
        for model_id in list(self._lanes):
            for outcomes in self._run_next(model_id):
                if outcomes and model_id in self._lanes and self._lanes[model_id][0].is_step:
                    (of_step,) = self._run_next(model_id)
                    outcomes += of_step
                yield outcomes

    def _run_next(self, model_id: str) -> Iterator[list[Outcome]]:
        lane = self._lanes[model_id]
        operation = lane.popleft()
        if not lane:
            del self._lanes[model_id]
        self._on_start(operation.op_id)
        try:
            value = operation.work()
            if isinstance(value, Pass):
                for _ in value.carry_out(self._max_train_tokens):
                    yield []
                value = value.result()
        except Exception as error:
            yield [Outcome(operation.op_id, error=error)]
        else:
            yield [Outcome(operation.op_id, value)]


def _step(sampler: Sampler) -> list[Outcome]:
    return [
        Outcome(job.op_id, error=job.error) if job.error else Outcome(job.op_id, job.result()) for job in sampler.step()
    ]
