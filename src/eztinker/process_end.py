"""The end of a program that has used the official SDK."""

from __future__ import annotations

import atexit
import os
import sys
from typing import NoReturn


def end_process(code: int) -> NoReturn:
    """End the process at once, with everything printed: threads of the SDK go on, and may abort a slower end."""
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:  # whoever read our output has seen enough
        code = code or 1
    os._exit(code)
