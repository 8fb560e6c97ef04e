"""Standard output and error that accept any text: characters that the terminal's encoding lacks are replaced."""

from __future__ import annotations

import io
import os
import sys


def make_output_safe() -> None:
    """Keep prints from failing, be it for a character (Latin-1, C locale) or for a stream closed before the start."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open until the end
        elif isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")
