"""Failpoints: named places in the code where a test can kill the process or make the disk fail.

EZTINKER_FAILPOINT=PREFIX:N:ACTION:MARKER arms one: the N-th time that this process reaches a failpoint whose name
begins with PREFIX, it is killed (ACTION `kill`) or the call fails (`enospc`, `eio`). The file MARKER is created first;
while it exists no failpoint fires, so that a restarted process runs normally.
"""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "EZTINKER_FAILPOINT"

_ERRORS = {"enospc": errno.ENOSPC, "eio": errno.EIO}


@dataclass(slots=True)
class _Armed:
    prefix: str
    num_left: int
    action: str
    marker: Path

    @classmethod
    def parse(cls, text: str) -> _Armed:
        prefix, number, action, marker = text.split(":", 3)
        return cls(prefix, int(number), action, Path(marker))

    def reach(self, name: str) -> None:
        if not name.startswith(self.prefix) or self.marker.exists():
            return
        self.num_left -= 1
        if self.num_left > 0:
            return
        self.marker.touch()
        if self.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        number = _ERRORS[self.action]
        raise OSError(number, os.strerror(number))


_armed = _Armed.parse(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None


def reach(name: str) -> None:
    """Mark a failpoint; does nothing unless a test has armed it.

    Raises:
        OSError: the failpoint is armed to fail.
    """
    if _armed is not None:
        _armed.reach(name)
