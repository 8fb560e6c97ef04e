"""Atomic creation of folders, and errors of ours for disks that fail."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from eztinker.errors import DiskBroken, DiskFull
from eztinker.flushing import flush

log = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def atomic_directory(directory: Path, *, num_bytes: int, reserve_bytes: int = 0) -> Iterator[Path]:
    """A folder to fill that becomes `directory` at the end of the block, and is removed if the block fails.

    Its files are flushed before it is renamed, so a crash at any point leaves either nothing under this name or all
    of it.

    Args:
        num_bytes: bytes that the block is going to write.
        reserve_bytes: bytes that must stay free on the disk beside them.
    Raises:
        FileExistsError: `directory` exists.
        DiskFull: the files do not fit; nothing is left of them.
        DiskBroken: the disk failed otherwise; nothing is left either.
    """
    if directory.exists():
        raise FileExistsError(f"{directory} exists already")
    staging = made = directory.with_name(f".{directory.name}.partial")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if staging.exists():
            shutil.rmtree(staging)
        if shutil.disk_usage(directory.parent).free < num_bytes + reserve_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        staging.mkdir(mode=0o700)
        yield staging
        for path in (*staging.iterdir(), staging):
            flush(path)
        staging.rename(directory)
        made = directory
        flush(directory.parent)
    except BaseException as error:
        shutil.rmtree(made, ignore_errors=True)
        if isinstance(error, OSError):
            raise disk_error(error, directory.parent, num_bytes, reserve_bytes) from error
        raise


def write_file(path: Path, content: bytes) -> None:
    """Create the file `path`, which must not exist."""
    with open(path, "xb") as file:
        file.write(content)


def try_to_remove(directory: Path, *, first: str) -> bool:
    """Remove a directory, its file `first` before all others; False, and a line in the log, if the disk refuses."""
    try:
        (directory / first).unlink(missing_ok=True)
        if directory.exists():
            shutil.rmtree(directory)
    except OSError:
        log.exception("A directory cannot be removed", extra={"event": "removal_refused", "directory": directory.name})
        return False
    return True


def disk_error(error: OSError, parent: Path, num_bytes: int, reserve_bytes: int) -> DiskFull | DiskBroken:
    """An error for the user from the disk's error on saving `num_bytes`."""
    if error.errno not in _FULL:
        return DiskBroken(f"The disk failed ({error.strerror}), so nothing was saved. Check the disk and save again")
    reserve = f", and {_size(reserve_bytes)} must stay free beside it" if reserve_bytes else ""
    free = _size(shutil.disk_usage(parent).free)
    return DiskFull(
        f"Saving this needs {_size(num_bytes)}{reserve}; the disk has {free} free ({error.strerror}). "
        "Free some space and save again"
    )


def _size(num_bytes: int) -> str:
    factor, unit = (1e9, "GB") if num_bytes >= 1e9 else (1e6, "MB") if num_bytes >= 1e6 else (1e3, "kB")
    return f"{num_bytes / factor:.1f} {unit}"
