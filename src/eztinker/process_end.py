"""The end of a program that has used the official SDK."""

from __future__ import annotations

import atexit
import os
import sys
from typing import NoReturn


def end_process(code: int) -> NoReturn:
    """Flush the output and end the process at once: the SDK's threads go on, and could abort a slower exit."""
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:  # the reader of our output has closed the pipe
        code = code or 1
    os._exit(code)
