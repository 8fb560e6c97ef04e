"""What clients are told when something in the engine raises."""

from __future__ import annotations

import errno

import pytest
import torch

from eztinker.errors import CheckpointDamaged, EZTinkerError, InvalidInput
from eztinker.worker.failures import failed


@pytest.mark.conforms(35)
@pytest.mark.parametrize("error", [InvalidInput("LoRA rank must be at least 1, got 0"), CheckpointDamaged("part x")])
def test_our_own_errors_keep_their_category_code_and_sentence(error: EZTinkerError):
    event = failed("op", error)
    assert (event.op_id, event.category, event.code, event.message) == ("op", error.category, error.code, error.message)


@pytest.mark.conforms(35)
@pytest.mark.parametrize(
    ("error", "code", "advice"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory", "--max-train-tokens"),
        (MemoryError(), "out_of_memory", "shorter sequences"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), "out_of_memory", "shorter"),
        (OSError(errno.EIO, "Input/output error", "/srv/data/x"), "disk_error", "Input/output error"),
        (ZeroDivisionError("division by zero"), "internal", "ZeroDivisionError"),
    ],
)
def test_foreign_errors_get_words_that_help_and_no_path_of_the_host(error: Exception, code: str, advice: str):
    event = failed("op", error)
    assert (event.category, event.code) == ("server", code)
    assert advice in event.message
    assert "/srv" not in event.message
