"""Work whose cost is counted on a clock of its own, so that a test of shares does not measure time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from eztinker.engine.sampler import BatchSampler, SamplerStep
from eztinker.engine.trainer import Pass
from eztinker.engine.training_queue import TrainingJob


class CountedClock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class CountedPass(Pass):
    """Costs what it is told to, piece by piece, and trains nothing."""

    def __init__(self, clock: CountedClock, costs: Sequence[float], num_pieces: int = 1) -> None:
        """`costs` are those of the micro-batches, each done in `num_pieces` pieces."""
        self._clock, self._costs, self._num_pieces = clock, costs, num_pieces

    def carry_out(self, max_tokens: int) -> Iterator[bool]:
        for index, cost in enumerate(self._costs):
            for piece in range(self._num_pieces):
                if index or piece:
                    yield piece > 0
                self._clock.seconds += cost / self._num_pieces

    def result(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return "done"


def counted_pass(
    name: str,
    run: str,
    clock: CountedClock,
    costs: Sequence[float],
    *,
    share: str,
    num_pieces: int = 1,
    longest: int = 0,
) -> TrainingJob:
    return TrainingJob(name, run, lambda: CountedPass(clock, costs, num_pieces), share=share, longest=longest)


def counted_step(name: str, run: str, clock: CountedClock, *, share: str, cost: float = 0.001) -> TrainingJob:
    def step() -> str:
        clock.seconds += cost
        return "stepped"

    return TrainingJob(name, run, step, is_step=True, share=share)


class CountedSampler(BatchSampler):
    """The real one, with a decode step that costs `overhead` and one more unit for each sample in it."""

    def __init__(self, clock: CountedClock, *args: object, unit: float = 0.01, overhead: int = 8, **more: object):
        super().__init__(*args, **more)  # type: ignore[arg-type]
        self._clock, self._unit, self._overhead = clock, unit, overhead
        self.decoded: list[int] = []
        """Samples in each step, in order."""
        self.before_decode: Callable[[], None] | None = None
        """Called once, when the next step begins."""

    def _decode(self, num_rows: int) -> list:
        self.decoded.append(num_rows)
        hook, self.before_decode = self.before_decode, None
        if hook is not None:
            hook()
        self._clock.seconds += self._unit * (self._overhead + num_rows)
        return super()._decode(num_rows)

    def advance(self, share: str, neighbours: Sequence[str] = (), *, max_rows: int | None = None) -> SamplerStep:
        num_before = len(self.decoded)
        step = super().advance(share, neighbours, max_rows=max_rows)
        if len(self.decoded) == num_before:
            self._clock.seconds += self._unit * self._overhead  # a prompt was read
        return step
