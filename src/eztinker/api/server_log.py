"""The server's log: without secrets, and with at most a few lines of one wording a minute, whatever clients send."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

from eztinker.redaction import without_secrets

MAX_OF_A_KIND = 5
"""Most lines of one wording in a window; further ones are only counted."""
WINDOW_SECONDS = 60.0


class ServerLogHandler(logging.Handler):
    """Writes to standard error."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._monotonic = monotonic
        self._counts: dict[tuple[str, str], int] = {}
        """Lines of this window by logger and wording, which is the message before its arguments are filled in."""
        self._window_ends = 0.0

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))

    def emit(self, record: logging.LogRecord) -> None:
        if self._monotonic() >= self._window_ends:
            self._end_window()
        kind = record.name, str(record.msg)
        self._counts[kind] = self._counts.get(kind, 0) + 1
        if self._counts[kind] <= MAX_OF_A_KIND:
            self._write(record)

    def close(self) -> None:
        self._end_window()
        super().close()

    def _end_window(self) -> None:
        """Report how many lines were left out, and begin a new window."""
        counts, self._counts = self._counts, {}
        self._window_ends = self._monotonic() + WINDOW_SECONDS
        for (name, wording), count in counts.items():
            if count > MAX_OF_A_KIND:
                left_out = count - MAX_OF_A_KIND
                text = f"{left_out:,} more lines within a minute: {wording}"
                self._write(logging.LogRecord(name, logging.WARNING, "", 0, text, None, None))

    def _write(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError, ValueError):  # a standard error that is closed, and nobody else to tell
            print(self.format(record), file=sys.stderr, flush=True)


LOG_CONFIG: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(levelname)s: %(message)s"}},
    "handlers": {"stderr": {"()": ServerLogHandler, "formatter": "plain"}},
    "loggers": {
        "uvicorn": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
        "eztinker": {"handlers": ["stderr"]},
    },
}
"""Logging configuration for uvicorn and eztinker, whose records also reach the root logger, for embedding programs."""
