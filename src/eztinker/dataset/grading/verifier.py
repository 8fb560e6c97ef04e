"""math-verify in a worker process, which is replaced if an answer crashes or blocks it."""

from __future__ import annotations

import atexit
import json
import logging
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from threading import Lock

from eztinker.extras import RECIPES_COMMAND, missing_recipes

log = logging.getLogger(__name__)

Pair = tuple[str, str]
"""Ground truth and answer, each as LaTeX without dollar signs."""

START_LIMIT_SECONDS = 60.0
"""Longest start of the worker: importing math-verify takes half a second, but far longer on a loaded machine."""
ANSWER_LIMIT_SECONDS = 2.0
CHUNK_PAIRS = 16
"""Pairs written before their verdicts are read, few enough to fit a pipe, so that writing never blocks."""
_WORKER = [sys.executable, "-P", "-m", "eztinker.dataset.grading.worker"]


class WorkerLost(Exception):
    """The worker ended, or gave no verdict in time."""


class MathVerifier:
    """A math-verify process, started on first use and shared by all threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._worker: _Worker | None = None
        self._cannot_start = False

    def verdicts(self, pairs: Sequence[Pair]) -> list[bool | None]:
        """Whether math-verify finds each pair equal; None where it is missing, failed or took too long."""
        verdicts: list[bool | None] = []
        while len(verdicts) < len(pairs):
            with self._lock:  # per chunk, so that threads take turns
                verdicts += self._ask(pairs[len(verdicts) : len(verdicts) + CHUNK_PAIRS])
        return verdicts

    def close(self) -> None:
        with self._lock:
            if self._worker:
                self._worker.end()
            self._worker = None

    def _ask(self, chunk: Sequence[Pair]) -> list[bool | None]:
        """Verdicts on the chunk, or on its first pairs up to the one that ended the worker."""
        worker = self._running_worker()
        if worker is None:
            return [None] * len(chunk)
        verdicts: list[bool | None] = []
        try:
            worker.send(chunk)
            for _ in chunk:
                verdicts.append(worker.receive(ANSWER_LIMIT_SECONDS))
        except WorkerLost:
            verdicts.append(None)
            worker.end()
            self._worker = _Worker()  # loads while the caller handles these verdicts
        except BaseException:  # Ctrl-C: the verdicts still to come would answer later questions
            worker.end()
            self._worker = None
            raise
        return verdicts

    def _running_worker(self) -> _Worker | None:
        if self._cannot_start:
            return None
        if missing_recipes("math-verify"):
            log.warning(
                "math-verify is not installed; answers are graded by exact numbers alone. To have it, run: %s",
                RECIPES_COMMAND,
            )
            self._cannot_start = True
            return None
        try:
            self._worker = self._worker or _Worker()
            self._worker.wait_until_ready()
        except (WorkerLost, OSError):
            log.warning("math-verify does not start; answers are graded by exact numbers alone")
            self._cannot_start = True
            if self._worker:
                self._worker.end()
            self._worker = None
        return self._worker


class _Worker:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            _WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._verdicts_to_read = select.poll()
        self._verdicts_to_read.register(self._stdout, select.POLLIN)
        self._unread = b""
        self._is_ready = False

    def wait_until_ready(self) -> None:
        if not self._is_ready:
            self._read_line(START_LIMIT_SECONDS)
            self._is_ready = True

    def send(self, pairs: Sequence[Pair]) -> None:
        try:
            self._stdin.write(b"".join(json.dumps(pair).encode() + b"\n" for pair in pairs))
            self._stdin.flush()
        except OSError as error:
            raise WorkerLost from error

    def receive(self, limit_seconds: float) -> bool | None:
        return json.loads(self._read_line(limit_seconds))

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._stdout.close()
        with suppress(OSError):  # unsent bytes to a process that is gone
            self._stdin.close()

    def _read_line(self, limit_seconds: float) -> bytes:
        deadline = time.monotonic() + limit_seconds
        while b"\n" not in self._unread:
            remaining_milliseconds = max(0.0, deadline - time.monotonic()) * 1_000
            is_readable = self._verdicts_to_read.poll(remaining_milliseconds)
            received = os.read(self._stdout.fileno(), 65_536) if is_readable else b""
            if not received:
                raise WorkerLost
            self._unread += received
        line, self._unread = self._unread.split(b"\n", 1)
        return line


_shared = MathVerifier()
atexit.register(lambda: _shared.close())


def _forget_parents_worker() -> None:
    global _shared
    _shared = MathVerifier()  # two processes on one pipe would read each other's verdicts


os.register_at_fork(after_in_child=_forget_parents_worker)


def shared_verifier() -> MathVerifier:
    """The verifier that this process shares among its threads."""
    return _shared
