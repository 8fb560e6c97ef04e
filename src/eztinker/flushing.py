"""What has to be on disk, and not only in the memory of the kernel, before anybody may count on it."""

from __future__ import annotations

import os
from pathlib import Path


def flush(path: Path) -> None:
    """To disk: the content of a file, or the names in a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
