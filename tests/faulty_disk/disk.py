"""A disk that refuses on command: faulty_disk.c, preloaded into the processes of a test, and what steers it.

It counts the calls of the C library that change files under one directory, in whichever language their caller is
written, so that a test can have each of them fail, or kill the process there, and no place in the code has to be named.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("faulty_disk.c")

CREATE, WRITE, FLUSH, REMOVE, READ = 1, 2, 4, 8, 16
"""Opening to write, making and renaming; writing; fsync; unlinking; opening to read and reading."""
CHANGES = CREATE | WRITE | FLUSH | REMOVE
GROWTH = CREATE | WRITE
"""What a full disk refuses."""
KILL, FULL, BROKEN = -1, errno.ENOSPC, errno.EIO
"""What happens at the call: the process dies, or the call fails."""

_FIELDS = struct.Struct("=5q")
_ALWAYS = 2**62


class FaultyDisk:
    """All processes started with `environment` share one count of their calls under `root`."""

    def __init__(self, root: Path, work_dir: Path) -> None:
        self._control_file = work_dir / "faulty_disk.control"
        self._control_file.write_bytes(_FIELDS.pack(0, 0, 0, 0, 0))
        with self._control_file.open("r+b") as file:
            self._control = mmap.mmap(file.fileno(), _FIELDS.size)
        self.root = root.resolve()
        self._library = _compiled(work_dir)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(self._library),
            "FAULTY_DISK_ROOT": str(self.root),
            "FAULTY_DISK_CONTROL": str(self._control_file),
        }

    def arm(self, action: int, classes: int, *, at: int, for_good: bool = False) -> None:
        """Strike at the call with number `at` of these classes, counted from 1 from now; `for_good`: at all later."""
        self.count(0)
        self._control[:] = _FIELDS.pack(classes, at, _ALWAYS if for_good else at, action, 0)

    def count(self, classes: int) -> None:
        """Let nothing fail, and count the calls of these classes from now."""
        self._control[:] = _FIELDS.pack(classes, 0, 0, 0, 0)

    @property
    def num_calls(self) -> int:
        return _FIELDS.unpack(self._control[:])[-1]

    @property
    def has_struck(self) -> bool:
        """Whether the call that it was armed for has come."""
        _, first, _, _, num_calls = _FIELDS.unpack(self._control[:])
        return 0 < first <= num_calls


def _compiled(work_dir: Path) -> Path:
    """The library; the test is skipped where there is no C compiler or no Linux."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux, for a library between the program and its disk")
    library = work_dir / "faulty_disk.so"
    if not library.exists():
        subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    return library
