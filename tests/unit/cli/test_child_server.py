"""A child server ends with the block that started it, however early a signal comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from eztinker.cli.child_server import child_server

started: list[subprocess.Popen[Any]] = []


class StruckPopen(subprocess.Popen[Any]):
    """A process whose starter gets the signal `number` before it can hold the process by a name."""

    number = signal.SIGINT

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        started.append(self)
        os.kill(os.getpid(), self.number)


def leave(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_start_leaves_no_server_behind(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(subprocess, "Popen", StruckPopen)
    monkeypatch.setattr(StruckPopen, "number", number)
    started.clear()
    before = signal.getsignal(number)
    if number != signal.SIGINT:
        signal.signal(number, leave)
    try:
        with pytest.raises((KeyboardInterrupt, SystemExit)), child_server(tmp_path / "data"):
            pytest.fail("it went on after the signal")
        (process,) = started
        assert process.poll() is not None, "the server goes on"
    finally:
        signal.signal(number, before)
        for process in started:
            process.kill()
            process.wait()
