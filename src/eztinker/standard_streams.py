"""Standard output and error that take any text: a character that the terminal's encoding lacks is replaced."""

from __future__ import annotations

import io
import os
import sys


def make_output_safe() -> None:
    """Let prints neither fail for a character (Latin-1, C locale) nor for a stream that was closed before the start."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open until the end
        elif isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")
