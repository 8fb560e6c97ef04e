"""A server with the scripted engine, in a process of its own.

`python -m tests.torture.scripted_server DATA_DIR` prints its address, and serves until its standard input is closed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers import serving_scripted


@contextmanager
def scripted_server(data_dir: Path) -> Iterator[str]:
    """The address of such a server, for the length of the block."""
    command = [sys.executable, "-m", "tests.torture.scripted_server", str(data_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    assert process.returncode == 0


if __name__ == "__main__":
    with serving_scripted(Path(sys.argv[1])) as server:
        print(server.url, flush=True)
        sys.stdin.read()
