"""Prefill: prompt tokens per second, one prompt at a time, up to its first next-token logits."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measurement import Measurement
from benchmarks.process import Side, race
from benchmarks.roofline import Limits
from benchmarks.workload import draw_prompts

LENGTHS = (64, 128, 256, 512)
WANTED_RATIO = 1.5


def measure(ours: Side, peer: Side, limits: Limits, vocab_size: int, num_rounds: int) -> Iterator[Measurement]:
    for num_tokens in LENGTHS:
        (prompt,) = draw_prompts(1, num_tokens, vocab_size)
        answers = race(ours, peer, "prefill", prompt, num_rounds=num_rounds)
        yield Measurement(
            work="prefill",
            setting=f"{num_tokens} tokens",
            unit="tok/s",
            ours=num_tokens / answers[0].seconds,
            peer=num_tokens / answers[1].seconds,
            limit=limits.prefill(num_tokens),
            wanted_ratio=WANTED_RATIO,
        )
