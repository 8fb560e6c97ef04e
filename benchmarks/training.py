"""LoRA training: tokens per second of whole steps, AdamW included, and the most memory a step needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.engine import EngineTraining
from benchmarks.measurement import Measurement
from benchmarks.peer_peft import PeftTraining
from benchmarks.process import Side, race
from benchmarks.roofline import Limits
from benchmarks.workload import draw_training_batch

SHAPES = ((8, 128), (32, 96))
WANTED_SPEED_RATIO = 1.5
WANTED_MEMORY_RATIO = 0.5
LOSS_TOLERANCE = 0.01
"""Largest relative difference of the losses; bfloat16 alone accounts for a few thousandths."""


def measure(
    directory: Path, dtype: str, num_threads: int, limits: Limits, vocab_size: int, num_rounds: int
) -> Iterator[Measurement]:
    for num_sequences, num_tokens in SHAPES:
        batch = draw_training_batch(num_sequences, num_tokens, vocab_size)
        setting = f"{num_sequences} x {num_tokens}"
        # New processes for each shape: memory freed after a larger one would not count for a smaller.
        with (
            Side(EngineTraining, directory, dtype, num_threads) as ours_side,
            Side(PeftTraining, directory, dtype, num_threads) as peer_side,
        ):
            ours, peer = race(ours_side, peer_side, "train_step", batch, num_rounds=num_rounds)
        if abs(ours.value / peer.value - 1) > LOSS_TOLERANCE:
            raise RuntimeError(f"Training {setting}: our loss is {ours.value:.4f}, the peer's {peer.value:.4f}")
        yield Measurement(
            work="training",
            setting=setting,
            unit="tok/s",
            ours=batch.num_tokens / ours.seconds,
            peer=batch.num_tokens / peer.seconds,
            limit=limits.training(batch.num_loss_tokens / batch.num_tokens),
            wanted_ratio=WANTED_SPEED_RATIO,
        )
        yield Measurement(
            work="training memory",
            setting=setting,
            unit="MB",
            ours=ours.peak_bytes / 1e6,
            peer=peer.peak_bytes / 1e6,
            wanted_ratio=WANTED_MEMORY_RATIO,
            less_is_better=True,
        )
