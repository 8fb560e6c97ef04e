"""One engine for both kinds of work: it takes turns between training and sampling, so that neither stalls the other.

Training operations keep their order per model; the first ones of all models are run together as one packed batch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from eztinker.engine.sampler import Sampler
from eztinker.engine.trainer import PackedBatch, Pass
from eztinker.types import EngineStatus

SHORTEST_TURN_SECONDS = 0.05
"""Sampling keeps the processor for at least this long before training may have it back."""


@dataclass(slots=True, eq=False)
class Operation:
    """One training operation in its model's lane: a pass, which can be batched, or a plain call."""

    op_id: str
    model_id: str
    work: Callable[[], Pass] | Callable[[], object]
    is_pass: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an operation or a sampling request ended: its result, or the exception it raised."""

    op_id: str
    value: object = None
    error: Exception | None = None


class Scheduler:
    """Queues of one engine. `turn` does a bounded piece of work and gives what it finished."""

    def __init__(self, max_train_tokens: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_train_tokens = max_train_tokens
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
        """Run the first operation of every lane: plain ones one by one, passes together."""
        heads = [lane.popleft() for lane in self._lanes.values()]
        self._lanes = {model_id: lane for model_id, lane in self._lanes.items() if lane}
        for head in heads:
            if not head.is_pass:
                yield [_call(head)]
        passes: list[tuple[Operation, Pass]] = []
        for head in heads:
            if head.is_pass:
                outcome = _call(head)
                if isinstance(outcome.value, Pass):
                    passes.append((head, outcome.value))
                else:
                    yield [outcome]
        for group in _batchable(passes):
            yield from self._run_passes(group)

    def _run_passes(self, group: list[tuple[Operation, Pass]]) -> Iterator[list[Outcome]]:
        """Run passes as one batch; if the batch breaks, each alone, so that only the guilty one fails."""
        batch = PackedBatch([each for _, each in group], self._max_train_tokens)
        try:
            for _ in batch.run():
                yield []
        except Exception as error:
            batch.abandon()
            if len(group) == 1:
                yield [Outcome(group[0][0].op_id, error=error)]
            else:
                for operation, each in group:
                    yield from self._run_passes([(operation, each.restarted())])
            return
        yield [
            Outcome(operation.op_id, error=each.error) if each.error else Outcome(operation.op_id, each.result())
            for operation, each in group
        ]


def _call(operation: Operation) -> Outcome:
    try:
        return Outcome(operation.op_id, operation.work())
    except Exception as error:
        return Outcome(operation.op_id, error=error)


def _step(sampler: Sampler) -> list[Outcome]:
    return [
        Outcome(job.op_id, error=job.error) if job.error else Outcome(job.op_id, job.result()) for job in sampler.step()
    ]


def _batchable(passes: Sequence[tuple[Operation, Pass]]) -> list[list[tuple[Operation, Pass]]]:
    """Passes that can share a batch: same base model, all or none with a backward pass."""
    groups: dict[tuple[int, bool], list[tuple[Operation, Pass]]] = {}
    for operation, each in passes:
        groups.setdefault((id(each.run.decoder), each.forward_only), []).append((operation, each))
    return list(groups.values())
