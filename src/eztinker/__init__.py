"""EZTinker: post-training on your own hardware, over the Tinker API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eztinker.rl import (
        create_training_run,
        generate_candidates,
        load_buffer,
        populate_buffer,
        save_buffer,
        select_best_candidate_and_train,
        wait_for_job,
    )

__version__ = "0.1.0"

__all__ = [
    "create_training_run",
    "generate_candidates",
    "load_buffer",
    "populate_buffer",
    "save_buffer",
    "select_best_candidate_and_train",
    "wait_for_job",
]


def __getattr__(name: str) -> Any:
    """Load `eztinker.rl` on first use, so that `import eztinker` stays instant."""
    if name not in __all__:
        raise AttributeError(f"module 'eztinker' has no attribute {name!r}")
    from eztinker import rl

    return getattr(rl, name)
