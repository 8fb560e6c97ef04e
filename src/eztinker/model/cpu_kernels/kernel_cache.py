"""Compiled libraries on disk, kept for the next process, and loaded only if no other user could have written them.

Whoever can write such a library, or put another in its place, runs code as this user. So the directory and the file
must belong to this user or to root, and nobody else may write them. Both are opened first and checked then, so that
what was checked is what is loaded. The directories above need no check: whoever may rename them can show us another
directory, but none that passes.
"""

from __future__ import annotations

import ctypes
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

Compile = Callable[[Path], None]
"""Compiles the library to a path."""


class _Untrusted(OSError):
    """A file or directory that another user could have written."""


def load(name: str, compile_to: Compile) -> ctypes.CDLL:
    """Load the library called `name` from the cache, or compile it. Equal names stand for equal contents.

    Where the cache cannot be used, it is compiled for this process alone.

    Raises:
        OSError: it cannot be loaded. What `compile_to` raises goes through, if it is neither this nor a RuntimeError.
    """
    try:
        path = cache_directory()
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return _kept_in(path, name, compile_to)
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home directory
        log.warning("The cache of the CPU kernels is passed over: %s. They are compiled for this process alone", error)
    with tempfile.TemporaryDirectory(prefix="eztinker-") as private:
        return _kept_in(Path(private), name, compile_to)


def cache_directory() -> Path:
    named = os.environ.get("EZTINKER_CACHE_DIR")
    return Path(named).expanduser().absolute() if named else Path.home() / ".cache" / "eztinker"


def _kept_in(path: Path, name: str, compile_to: Compile) -> ctypes.CDLL:
    """Load the library from a directory; compile it first if it is not there or cannot be trusted."""
    with _opened(path) as directory:
        try:
            _require_own_file(directory, path / name)
        except FileNotFoundError:
            _make(path / name, compile_to)
        except OSError as error:
            log.warning("A library of CPU kernels is not loaded but compiled anew: %s", error)
            _make(path / name, compile_to)
        _require_own_file(directory, path / name)
        # By way of the open directory, whatever its path leads to by now. Only its owner can change what is in it.
        return ctypes.CDLL(f"/proc/self/fd/{directory}/{name}")


def _make(library: Path, compile_to: Compile) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as aside:
        made = Path(aside) / library.name
        compile_to(made)
        made.chmod(0o700)  # whatever the umask is
        made.replace(library)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a directory that nobody else may write.

    Raises:
        _Untrusted: somebody else may.
    """
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _require_own(directory, path)
        yield directory
    finally:
        os.close(directory)


def _require_own_file(directory: int, path: Path) -> None:
    """Check that only this user and root may write the file.

    Raises:
        FileNotFoundError: it is not there.
        _Untrusted: another user could have written it.
    """
    file = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise _Untrusted(f"{path} is not a file")
        _require_own(file, path)
    finally:
        os.close(file)


def _require_own(descriptor: int, path: Path) -> None:
    status = os.fstat(descriptor)
    if status.st_uid not in (os.geteuid(), 0):
        raise _Untrusted(f"{path} belongs to another user (id {status.st_uid})")
    if status.st_mode & 0o022:
        raise _Untrusted(
            f"other users may write {path} (mode {stat.S_IMODE(status.st_mode):o}; run: chmod go-w {path})"
        )
