"""Decode: new tokens per second at several batch sizes, greedy, prefill included."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measurement import Measurement
from benchmarks.process import Side, race
from benchmarks.roofline import Limits
from benchmarks.workload import draw_prompts

NUM_PROMPT_TOKENS = 8
NUM_NEW_TOKENS = 64
WANTED_RATIOS = {1: 1.5, 8: 2.5, 32: 2.5}


def measure(ours: Side, peer: Side, limits: Limits, vocab_size: int, num_rounds: int) -> Iterator[Measurement]:
    for batch_size, wanted_ratio in WANTED_RATIOS.items():
        prompts = draw_prompts(batch_size, NUM_PROMPT_TOKENS, vocab_size)
        answers = race(ours, peer, "decode", prompts, NUM_NEW_TOKENS, num_rounds=num_rounds)
        num_tokens = batch_size * NUM_NEW_TOKENS
        assert all(answer.value == num_tokens for answer in answers)
        yield Measurement(
            work="decode",
            setting=f"batch {batch_size}",
            unit="tok/s",
            ours=num_tokens / answers[0].seconds,
            peer=num_tokens / answers[1].seconds,
            limit=limits.decode(batch_size),
            wanted_ratio=wanted_ratio,
        )
