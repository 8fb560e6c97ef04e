"""A server in a child process: started, waited for, and stopped."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from eztinker.errors import ServerError
from eztinker.rl.interrupts import interrupts_held
from eztinker.settings.client_settings import engine_is_ready
from eztinker.settings.data_dir import RunningServer, make_data_dir, open_private, running_server

LOG_FILE = "server.log"
_START_TIMEOUT_SECONDS = 600.0
"""Longest start; a first start also fetches and converts the embedded model."""
_STOP_TIMEOUT_SECONDS = 30.0
_LOOK_AGAIN_SECONDS = 0.1


@contextmanager
def child_server(data_dir: Path, flags: Sequence[str] = ()) -> Iterator[RunningServer]:
    """Run a server on a free port of this machine, its engine ready to compute, during the block.

    Args:
        data_dir: data directory, created if absent; the server's output goes to its `server.log`.
        flags: further flags of `eztinker server`.
    Raises:
        ServerError: the server did not start; the message is its own.
        ConfigError: the directory cannot be used.
    """
    make_data_dir(data_dir)
    log_path = data_dir / LOG_FILE
    command = [sys.executable, "-P", "-m", "eztinker", "server", "--host", "127.0.0.1", "--port", "0"]
    command += ["--data-dir", str(data_dir), *flags]
    with ExitStack() as life:
        with open_private(log_path, "ab") as log, interrupts_held():  # until the callback that stops it is there
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches only this process, which stops the server gracefully
            )
            life.callback(_stop, process)
        yield _wait_until_ready(process, data_dir, log_path)


def _wait_until_ready(process: subprocess.Popen[bytes], data_dir: Path, log_path: Path) -> RunningServer:
    deadline = time.monotonic() + _START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerError(_last_line(log_path).removeprefix("Error: "))
        server = running_server(data_dir)
        if server and server.pid == process.pid and engine_is_ready(server.url):
            return server
        time.sleep(_LOOK_AGAIN_SECONDS)
    raise ServerError(f"The server was not ready after {_START_TIMEOUT_SECONDS:.0f} s; {log_path} says how far it came")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):  # a second Ctrl-C waits no longer
        process.kill()
        process.wait()


def _last_line(log_path: Path) -> str:
    lines = log_path.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "The server ended without a word")
