"""How much the torture tests do, and the seed of what they choose.

EZTINKER_TORTURE=short takes what every change runs, `full` what a release does; without it, `make kills` has minutes.
"""

from __future__ import annotations

import os

_NAMED = os.environ.get("EZTINKER_TORTURE", "")
assert _NAMED in ("", "short", "full"), f"EZTINKER_TORTURE is short, full or absent, got {_NAMED!r}"
FULL = _NAMED == "full"
SEED = int(os.environ.get("EZTINKER_TORTURE_SEED", "1"))


def sized(short: int, usual: int, full: int) -> int:
    """The number for the size that is asked for."""
    return {"short": short, "": usual, "full": full}[_NAMED]
