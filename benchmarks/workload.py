"""Inputs of every measurement, drawn from fixed seeds, the same for both sides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LORA_RANK = 8
LORA_ALPHA = 32
ADAPTED_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LEARNING_RATE = 1e-4

COMPLETION_SHARE = 0.25
"""Fraction of each training sequence, at its end, that carries loss, as a short answer after a prompt does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingBatch:
    tokens: list[list[int]]
    """Sequences of equal length."""
    num_prompt_tokens: int
    """Number of tokens at the start of each sequence without loss."""

    @property
    def num_tokens(self) -> int:
        return sum(len(sequence) for sequence in self.tokens)

    @property
    def num_loss_tokens(self) -> int:
        return sum(len(sequence) - self.num_prompt_tokens for sequence in self.tokens)


def draw_prompts(num_prompts: int, num_tokens: int, vocab_size: int) -> list[list[int]]:
    generator = np.random.default_rng([num_prompts, num_tokens])
    return generator.integers(0, vocab_size, (num_prompts, num_tokens)).tolist()


def draw_training_batch(num_sequences: int, num_tokens: int, vocab_size: int) -> TrainingBatch:
    return TrainingBatch(
        tokens=draw_prompts(num_sequences, num_tokens, vocab_size),
        num_prompt_tokens=round(num_tokens * (1 - COMPLETION_SHARE)),
    )
