"""Real server processes to be killed, kept running by a keeper as an init system would."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

from eztinker.settings.client_settings import server_is_up
from tests.servers import API_KEY
from tests.torture.sizes import SEED

START_SECONDS = 60.0
BOTH_WITHIN_SECONDS = 0.05


class Keeper:
    """Runs `eztinker server` on one port and one data directory, and starts it again whenever it ends."""

    def __init__(
        self, data_dir: Path, model_dir: Path, settings: Mapping[str, str], log_file: Path | None = None
    ) -> None:
        self.data_dir = data_dir
        self.url = f"http://127.0.0.1:{_free_port()}"
        self._command = [sys.executable, "-m", "eztinker", "server", "--port", self.url.rpartition(":")[2]]
        self._command += ["--data-dir", str(data_dir), "--base-model", f"tiny={model_dir}", "--threads", "1"]
        self._environment = os.environ | {"EZTINKER_API_KEY": API_KEY} | dict(settings)
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False
        self._killed: set[int] = set()
        """Engines that were, dead or still dying."""
        self.exit_codes: list[int] = []
        self.killed_at: list[float] = []
        """Monotonic seconds of each disturbance."""
        self.first_start_seconds = 0.0
        """As a measure of this machine."""
        self.up_seconds: list[float] = []
        """From each disturbance of the server until it answered again."""
        self.refusing_seconds: list[float] = []
        self.ending_seconds: list[float] = []
        """From each SIGTERM until the server took no requests any more, and until it had ended."""
        self._num_awaited = 0
        self._random = random.Random(SEED)
        data_dir.mkdir(exist_ok=True)
        self._log_file = log_file or data_dir / "server.log"
        self._log = self._log_file.open("ab")
        self._thread = threading.Thread(target=self._keep_running)

    @contextlib.contextmanager
    def running(self) -> Iterator[Keeper]:
        began = time.monotonic()
        self._thread.start()
        try:
            self.wait_until_up()
            self.first_start_seconds = time.monotonic() - began
            yield self
        finally:
            self._is_stopped = True
            if self._process is not None:
                self._process.terminate()
            self._thread.join()
            self._log.close()

    @property
    def log(self) -> str:
        return self._log_file.read_text()

    def wait_until_up(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not server_is_up(self.url):
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def engine_pid(self) -> int:
        """That of the engine which runs, also while it still starts."""
        while not (pids := self._engine_pids()):
            time.sleep(0.01)
        return pids[0]

    def disturb(self, how: Callable[[Keeper], None]) -> None:
        """Do one of the four things below, and wait until the server is there again."""
        self.killed_at.append(time.monotonic())
        how(self)
        self.wait_until_up()
        self.up_seconds.append(time.monotonic() - self.killed_at[-1])

    def kill_engine(self) -> None:
        """-9, also while it still starts."""
        while not (pids := self._engine_pids()):
            time.sleep(0.01)
        for pid in pids:
            kill(pid)
            self._killed.add(pid)

    def kill_group(self) -> None:
        """-9 for the server and its engine at once, as a lost container would."""
        engines = self._engine_pids()
        assert self._process is not None
        for pid in (self._process.pid, *engines):
            kill(pid)
        self._wait_for_end()

    def kill_both(self) -> None:
        """-9 for the engine and the server in either order, at most 50 ms apart."""
        assert self._process is not None
        pids = [self._process.pid, self.engine_pid()]
        self._random.shuffle(pids)
        kill(pids[0])
        time.sleep(self._random.uniform(0, BOTH_WITHIN_SECONDS))
        kill(pids[1])
        self._wait_for_end()

    def terminate(self) -> None:
        """As an orderly restart would."""
        assert self._process is not None
        began = time.monotonic()
        self._process.terminate()
        while server_is_up(self.url):
            time.sleep(0.01)
        self.refusing_seconds.append(time.monotonic() - began)
        self._wait_for_end()
        self.ending_seconds.append(time.monotonic() - began)

    def _wait_for_end(self) -> None:
        num_ended = self._num_awaited
        self._num_awaited += 1
        while len(self.exit_codes) == num_ended:
            time.sleep(0.01)

    def _keep_running(self) -> None:
        while not self._is_stopped:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
            )
            self.exit_codes.append(self._process.wait())

    def _engine_pids(self) -> list[int]:
        if self._process is None:
            return []
        return [pid for pid in children_of(self._process.pid) if pid not in self._killed]


class Client:
    """One program of `clients`, whose steps can be waited for and, if it is paced, are allowed one by one."""

    def __init__(self, loop: str, url: str, num_steps: int, *, is_paced: bool = False) -> None:
        command = [sys.executable, "-m", "tests.torture.clients", loop, url, str(num_steps)]
        environment = os.environ | {"TINKER_API_KEY": API_KEY}
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if not is_paced:
            self.allow(num_steps)
        self.began_at: list[float] = []
        """Monotonic seconds of each step, and of the end."""
        self._last_line = ""
        self._errors = ""
        self._threads = [threading.Thread(target=self._read), threading.Thread(target=self._read_errors)]
        for thread in self._threads:
            thread.start()

    def allow(self, num_steps: int) -> None:
        """Let it take so many steps more."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n" * num_steps)
        self._process.stdin.flush()

    def outcome(self, seconds: float) -> str:
        """What it printed last, once it has ended normally."""
        try:
            code = self._process.wait(seconds)
        finally:
            self._process.kill()
            for thread in self._threads:
                thread.join()
            assert self._process.stdin is not None
            self._process.stdin.close()
        assert code == 0, self._errors
        return self._last_line

    def next_step_after(self, moment: float) -> float | None:
        """Seconds from then until it began its next step or came to its end; None if it had come to its end before."""
        return next((began - moment for began in self.began_at if began > moment), None)

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._last_line = line
            self.began_at.append(time.monotonic())

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self._errors = self._process.stderr.read()


def saved_bytes(data_dir: Path, path: str) -> list[bytes]:
    """Adapter and optimizer of a checkpoint, as they lie on disk."""
    model_id, kind, name = path.removeprefix("tinker://").split("/")
    query = "SELECT checkpoint_id FROM checkpoints WHERE model_id = ? AND kind = ? AND name = ?"
    with closing(sqlite3.connect(data_dir / "oplog.sqlite3")) as db:
        ((checkpoint_id,),) = db.execute(query, (model_id, kind, name))
    directory = data_dir / "checkpoints" / checkpoint_id
    return [(directory / part).read_bytes() for part in ("adapter.safetensors", "optimizer.safetensors")]


def children_of(pid: int) -> list[int]:
    """Processes that this one has started; of a server its engines, also those that are still dying."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def kill(pid: int) -> None:
    """-9, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]
