"""`Failed` events from exceptions of the engine: our own as they are, foreign ones in words that help."""

from __future__ import annotations

import logging

import torch

from eztinker.errors import EZTinkerError, UserError
from eztinker.protocol.frames import Failed

log = logging.getLogger(__name__)

_OUT_OF_MEMORY = ("can't allocate memory", "Cannot allocate memory", "bad_alloc")
"""Words for lack of memory of torch, the operating system and C++."""


def failed(op_id: str, error: Exception) -> Failed:
    """The event that reports `error`; what the client cannot mend is logged with its traceback and told without it."""
    if not isinstance(error, UserError):
        log.error("Operation %s failed", op_id, exc_info=error)
    if isinstance(error, EZTinkerError):
        return Failed.of(op_id, error)
    code, message = _in_words(error)
    return Failed(op_id=op_id, category="server", code=code, message=message)


def _in_words(error: Exception) -> tuple[str, str]:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in str(error) for words in _OUT_OF_MEMORY):
        return "out_of_memory", (
            "The engine ran out of memory for this operation, which was dropped. "
            "Send shorter sequences or fewer samples, or start the server with a smaller --max-train-tokens"
        )
    if isinstance(error, OSError):
        return "disk_error", f"The server could not write or read a file ({error.strerror}). Try again"
    return "internal", f"The engine failed on this operation ({type(error).__name__}); its log tells more"
