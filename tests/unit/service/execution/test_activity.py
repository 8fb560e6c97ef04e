"""Rates of the last minute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from eztinker.oplog.rows import UsageKind
from eztinker.protocol.frames import Sample, SampleDone
from eztinker.service.clock import Clock
from eztinker.service.execution.activity import Activity
from eztinker.types import SampledSequence, SampleRequest, SampleResult, SamplingParams


class SetClock(Clock):
    seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


def sampled(num_prompt: int, num_cached: int, num_drawn: int) -> tuple[Any, Any]:
    request = SampleRequest(prompt=np.zeros(num_prompt, np.int64), num_samples=1, params=SamplingParams(max_tokens=9))
    drawn = SampledSequence(
        tokens=np.zeros(num_drawn, np.int32), logprobs=np.zeros(num_drawn, np.float32), stop_reason="stop"
    )
    result = SampleResult(sequences=[drawn], prompt_cache_hit_tokens=num_cached)
    work = Sample(op_id="op", base_model="tiny", directory=None, request=request)
    return work, SampleDone(op_id="op", result=result)


def test_rates_are_over_the_last_minute_or_since_the_start():
    clock = SetClock()
    activity = Activity(clock)
    clock.seconds += 10
    activity.note(*sampled(50, 20, 40))
    rates = activity.tokens_per_second()
    assert (rates[UsageKind.PREFILL], rates[UsageKind.SAMPLING], rates[UsageKind.TRAINING]) == (3.0, 4.0, 0.0)
    clock.seconds += 50
    activity.note(*sampled(0, 0, 80))
    assert activity.tokens_per_second()[UsageKind.SAMPLING] == pytest.approx(120 / 60)
    clock.seconds += 11
    assert activity.tokens_per_second()[UsageKind.SAMPLING] == pytest.approx(80 / 60)
    clock.seconds += 60
    assert set(activity.tokens_per_second().values()) == {0.0}
