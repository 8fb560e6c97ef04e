"""Rejection-sampling SFT over the official Tinker SDK: step by step, or the whole loop in one call."""

from eztinker.rl.config import RejectionSFTConfig
from eztinker.rl.loop import RejectionSFT, run_rejection_sft
from eztinker.rl.rejection_sampler import (
    create_training_run,
    generate_candidates,
    load_buffer,
    populate_buffer,
    save_buffer,
    select_best_candidate_and_train,
    wait_for_job,
)

__all__ = [
    "RejectionSFT",
    "RejectionSFTConfig",
    "create_training_run",
    "generate_candidates",
    "load_buffer",
    "populate_buffer",
    "run_rejection_sft",
    "save_buffer",
    "select_best_candidate_and_train",
    "wait_for_job",
]
