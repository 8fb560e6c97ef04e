"""The scheduler of an engine: turns go to shares by their cost, so that no owner stalls another.

A share is a party that the server charges work to, usually an owner. The share that has had the least processor time
is next; whether it trains or samples in its turn is decided in the same way. A decode step serves the samples of
several shares at once, and its time is divided among them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from eztinker.engine.fair_turns import FairTurns
from eztinker.engine.sample_job import SampleJob
from eztinker.engine.sampler import BatchSampler, SamplerStep
from eztinker.engine.training_queue import TrainingJob, TrainingQueue
from eztinker.types import EngineStatus

Job = TrainingJob | SampleJob
"""Work of one request."""

TURN_SECONDS = 0.01
"""Least length of a turn, which goes on while its pieces are shorter."""
TOGETHER_SECONDS = 0.05
"""Difference in virtual time up to which shares decode together: separate steps would read the weights for each."""
PRESENCE_SECONDS = 1.0
"""Time for which a share without work still counts as present; decode steps are kept short for it."""
MAX_OPEN = 4
"""Most shares that may be in the middle of a micro-batch, which holds its activations, at the same time.

Fewer if a long datum makes a micro-batch larger; one as large as four regular ones is open alone.
"""
MAX_SHARED_ROWS = 32
"""Most samples in a decode step while several shares are present: more gain little, and the other shares wait."""

Source = TrainingQueue | BatchSampler
"""A source of a share's work."""


@dataclass(slots=True, eq=False)
class _Share:
    training: TrainingQueue
    turns: FairTurns[Source] = field(default_factory=FairTurns)
    seen_at: float = 0.0
    """Time at which the share last had work, in seconds of the clock."""
    used_seconds: float = 0.0
    """Processor time since the last status."""


class Scheduler:
    """Queues of one engine. `turn` does a bounded piece of work and returns what it finished."""

    def __init__(
        self,
        max_train_tokens: int,
        *,
        on_start: Callable[[str], None] = lambda op_id: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start without samplers and without work.

        Args:
            max_train_tokens: tokens in a training micro-batch.
            on_start: called with the id of each training job right before it begins, or goes on after another.
            clock: seconds, monotonic.
        """
        self._max_train_tokens = max_train_tokens
        self._on_start = on_start
        self._clock = clock
        self._current_op_id: str | None = None
        self._shares: dict[str, _Share] = {}
        """Shares by name; the one whose last turn was longest ago is first."""
        self._turns: FairTurns[str] = FairTurns()
        self._samplers: list[BatchSampler] = []

    def add_sampler(self, sampler: BatchSampler) -> None:
        self._samplers.append(sampler)

    def submit(self, job: TrainingJob) -> None:
        self._share(job.share).training.submit(job)

    def cancel(self, op_id: str) -> bool:
        """Drop a sampling request; False if there is none with this id."""
        return any(sampler.cancel(op_id) for sampler in self._samplers)

    @property
    def is_idle(self) -> bool:
        has_training = any(not share.training.is_empty for share in self._shares.values())
        return not has_training and all(sampler.is_idle for sampler in self._samplers)

    def status(self) -> EngineStatus:
        """Numbers of running and waiting work, and each share's part of the time since the last call."""
        self._shares = {name: share for name, share in self._shares.items() if self._is_known(share)}
        used = {name: share.used_seconds for name, share in self._shares.items()}
        total = sum(used.values())
        for share in self._shares.values():
            share.used_seconds = 0.0
        return EngineStatus(
            running_samples=sum(sampler.num_running for sampler in self._samplers),
            waiting_samples=sum(sampler.num_waiting for sampler in self._samplers),
            waiting_operations=sum(share.training.num_waiting for share in self._shares.values()),
            shares={name: seconds / total for name, seconds in used.items()} if total else {},
        )

    def new_tokens(self) -> list[tuple[SampleJob, list[int]]]:
        """Tokens that streamed samples have drawn since the last call, as in `BatchSampler.new_tokens`."""
        return [each for sampler in self._samplers for each in sampler.new_tokens()]

    def turn(self, has_new_work: Callable[[], bool] = lambda: False) -> list[Job]:
        """Work for the share that is next until its turn is over or a job has ended; returns the jobs that have.

        Args:
            has_new_work: whether new work has arrived, which may be for a share that goes first; it ends the turn.
        """
        contenders = self._contenders()
        if not contenders:
            return []
        name = self._turns.next(contenders, self._head_start)
        # Times fall back to the clock while a share waits for room, so many are equal: it goes last among them.
        self._shares[name] = self._shares.pop(name)
        source = self._shares[name].turns.next(contenders[name])
        until = self._clock() + TURN_SECONDS
        ended = self._serve(name, source)
        while not ended and not has_new_work() and self._clock() < until and _has_work(source, name):
            ended = self._serve(name, source)
        return ended

    def _share(self, name: str) -> _Share:
        if name not in self._shares:
            self._shares[name] = _Share(TrainingQueue(self._max_train_tokens, self._announce))
        return self._shares[name]

    def _announce(self, op_id: str) -> None:
        if op_id != self._current_op_id:
            self._current_op_id = op_id
            self._on_start(op_id)

    def _contenders(self) -> dict[str, list[Source]]:
        """Shares that can make progress now, and the sources of their work."""
        contenders: dict[str, list[Source]] = {name: [self._shares[name].training] for name in self._may_train()}
        for sampler in self._samplers:
            for name in sampler.ready_shares():
                contenders.setdefault(name, []).append(sampler)
        now = self._clock()
        for name in contenders:
            self._share(name).seen_at = now
        return contenders

    def _may_train(self) -> list[str]:
        """Shares whose training may go on. While one waits for room for its activations, no other one takes any."""
        training = {name: share.training for name, share in self._shares.items() if not share.training.is_empty}
        holding = [name for name, queue in training.items() if queue.is_open]
        room = MAX_OPEN * self._max_train_tokens - sum(training[name].num_tokens for name in holding)
        is_full = any(queue.num_tokens > room for queue in training.values() if not queue.is_open)
        return holding if holding and is_full else list(training)

    def _head_start(self, name: str) -> float:
        """Head start of a share whose next job is an optimizer step, which takes little time."""
        return TOGETHER_SECONDS if self._shares[name].training.is_at_step else 0.0

    def _is_present(self, share: _Share) -> bool:
        return self._clock() - share.seen_at < PRESENCE_SECONDS

    def _is_known(self, share: _Share) -> bool:
        return not share.training.is_empty or share.used_seconds > 0 or self._is_present(share)

    def _serve(self, name: str, source: Source) -> list[Job]:
        """Do one piece of work and charge it to the shares it served."""
        started = self._clock()
        ended: list[Job] = []
        if isinstance(source, TrainingQueue):
            ended += source.advance()
            parts = {name: 1.0}
        else:
            step = self._sample(name, source)
            ended += step.done
            parts = step.parts
        seconds = self._clock() - started
        for each, part in parts.items():
            share = self._share(each)
            self._turns.charge(each, part * seconds)
            share.turns.charge(source, part * seconds)
            share.used_seconds += part * seconds
        return ended

    def _sample(self, name: str, sampler: BatchSampler) -> SamplerStep:
        is_shared = sum(map(self._is_present, self._shares.values())) > 1
        max_rows = MAX_SHARED_ROWS if is_shared else None
        return sampler.advance(name, self._batch_neighbours(name, sampler), max_rows=max_rows)

    def _batch_neighbours(self, name: str, sampler: BatchSampler) -> list[str]:
        """Shares that sample in the same step, those with the fewest samples first.

        These are the shares with a similar virtual time, and those that have no more samples than `name`, each of which
        makes the step at most twice as long.
        """
        num_rows = sampler.num_rows
        latest = self._turns.time_of(name) + TOGETHER_SECONDS
        neighbours = [
            each
            for each in num_rows
            if each != name and (self._turns.time_of(each) <= latest or num_rows[each] <= num_rows[name])
        ]
        return sorted(neighbours, key=num_rows.__getitem__)


def _has_work(source: Source, name: str) -> bool:
    return not source.is_empty if isinstance(source, TrainingQueue) else source.is_ready(name)
