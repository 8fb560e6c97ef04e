"""Ctrl-C in a run: what it says, and where it has to wait."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache


class RunInterrupted(KeyboardInterrupt):
    """Ctrl-C stopped a run; the message says what is kept and how to go on."""


@cache
def import_sdk() -> None:
    """Import the SDK and what it imports later. An exception within compiled start-up code would abort the process."""
    with interrupts_held():
        import tinker  # noqa: F401
        from transformers import AutoTokenizer  # noqa: F401


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Let a Ctrl-C within the block wait for its end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    is_pressed = False

    def remember(signum: int, frame: object) -> None:
        nonlocal is_pressed
        is_pressed = True

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if is_pressed:
        raise KeyboardInterrupt
