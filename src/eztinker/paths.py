"""Paths below which nothing can be made."""

from __future__ import annotations

import os
from pathlib import Path


def file_in_the_way(directory: Path) -> Path | None:
    """The file that stands where `directory` or one of its parents would be, if one can be seen."""
    # os.path, because `Path.exists` raises where this user may not look
    return next((path for path in (directory, *directory.parents) if os.path.exists(path) and not path.is_dir()), None)
