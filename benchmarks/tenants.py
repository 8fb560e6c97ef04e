"""Training for several tenants: their batches in one pass over the base model, against one pass each in turn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.engine import EngineTenants
from benchmarks.measurement import Measurement
from benchmarks.process import Side, race
from benchmarks.workload import TENANT_RANKS, draw_training_batch

LENGTHS = {16: 3.0, 64: None}
"""Tokens of each tenant's batch, and the goal: it is short ones that leave a pass waiting for the weights."""


def measure(directory: Path, dtype: str, num_threads: int, vocab_size: int, num_rounds: int) -> Iterator[Measurement]:
    shared = (directory, dtype, num_threads)
    with Side(EngineTenants, *shared, True) as ours_side, Side(EngineTenants, *shared, False) as turns_side:
        for num_tokens, wanted_ratio in LENGTHS.items():
            batch = draw_training_batch(len(TENANT_RANKS), num_tokens, vocab_size)
            ours, turns = race(ours_side, turns_side, "train_step", batch, num_rounds=num_rounds)
            yield Measurement(
                work="tenants",
                setting=f"{len(TENANT_RANKS)} x {num_tokens}, against turns",
                unit="tok/s",
                ours=batch.num_tokens / ours.seconds,
                peer=batch.num_tokens / turns.seconds,
                wanted_ratio=wanted_ratio,
            )
