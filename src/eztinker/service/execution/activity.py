"""Rates of work in the engine, for whoever looks at the server."""

from __future__ import annotations

from collections import Counter, deque

from eztinker.oplog.rows import UsageKind
from eztinker.protocol.frames import ForwardBackward, ForwardBackwardDone, Sample, SampleDone
from eztinker.service.clock import Clock

WINDOW_SECONDS = 60.0


class Activity:
    """Tokens of the operations that ended within the last minute."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started = clock.monotonic()
        self._done: deque[tuple[float, UsageKind, int]] = deque()

    def note(self, work: object, outcome: object) -> None:
        """Count what an operation that has just ended computed."""
        match work, outcome:
            case ForwardBackward(), ForwardBackwardDone():
                self._add(UsageKind.TRAINING, sum(len(datum.tokens) for datum in work.data))
            case Sample(), SampleDone():
                num_computed = len(work.request.prompt) - outcome.result.prompt_cache_hit_tokens
                self._add(UsageKind.PREFILL, num_computed)
                self._add(UsageKind.SAMPLING, sum(len(sequence.tokens) for sequence in outcome.result.sequences))

    def tokens_per_second(self) -> dict[UsageKind, float]:
        """Tokens per second by kind of use, over the last minute or since the server started."""
        now = self._forget_old()
        totals: Counter[UsageKind] = Counter()
        for _, kind, num_tokens in self._done:
            totals[kind] += num_tokens
        seconds = max(1.0, min(WINDOW_SECONDS, now - self._started))
        kinds = (UsageKind.TRAINING, UsageKind.PREFILL, UsageKind.SAMPLING)
        return {kind: totals[kind] / seconds for kind in kinds}

    def _add(self, kind: UsageKind, num_tokens: int) -> None:
        self._done.append((self._forget_old(), kind, num_tokens))

    def _forget_old(self) -> float:
        now = self._clock.monotonic()
        while self._done and self._done[0][0] < now - WINDOW_SECONDS:
            self._done.popleft()
        return now
