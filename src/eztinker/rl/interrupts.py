"""Ctrl-C in a run: its message, and the code in which it is deferred."""

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
    """Defer a Ctrl-C, SIGTERM or SIGHUP that this program handles to the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    handled = {number: handler for number, handler in before.items() if callable(handler)}
    for number in handled:
        signal.signal(number, lambda number, _: held.append(number))
    try:
        yield
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
    for number in held[:1]:
        signal.raise_signal(number)
