"""A process for each side of a comparison, so that their memory is measured separately."""

from __future__ import annotations

import multiprocessing
import statistics
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a call, its duration, and the process's peak memory during it."""

    value: Any
    seconds: float
    peak_bytes: int
    """Peak memory above that after importing libraries: model, activations and workspace."""


class Side(AbstractContextManager["Side"]):
    """An object that lives in a child process; its methods are called by name."""

    def __init__(self, make: Callable[..., object], *args: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, args), daemon=True)
        self._process.start()
        theirs.close()

    def call(self, method: str, *args: object) -> Answer:
        self._connection.send((method, args))
        answer = self._connection.recv()
        if isinstance(answer, str):
            raise RuntimeError(f"{method} failed in its process:\n{answer}")
        return answer

    def __exit__(self, *exc_info: object) -> None:
        self._connection.close()
        self._process.join()


def race(ours: Side, peer: Side, method: str, *args: object, num_rounds: int) -> tuple[Answer, Answer]:
    """Call both sides in turn after a warm-up of each; returns the median durations with the values of the last calls.

    A training step continues from the one before, so only values of the same round can be compared.
    """
    rounds = [(ours.call(method, *args), peer.call(method, *args)) for _ in range(1 + num_rounds)][1:]
    ours_median, peer_median = (median_of(answers) for answers in zip(*rounds, strict=True))
    return ours_median, peer_median


def median_of(answers: tuple[Answer, ...]) -> Answer:
    """The answer of median duration, with the value of the last."""
    middle = statistics.median_low(answer.seconds for answer in answers)
    of_middle = next(answer for answer in answers if answer.seconds == middle)
    return replace(of_middle, value=answers[-1].value)


def _serve(connection: Connection, make: Callable[..., object], args: tuple[object, ...]) -> None:
    imported_bytes = _memory("VmRSS")
    made = make(*args)
    while True:
        try:
            method, method_args = connection.recv()
        except EOFError:
            return
        _forget_peak()
        start = time.perf_counter()
        try:
            value = getattr(made, method)(*method_args)
        except Exception:
            connection.send(traceback.format_exc())
            continue
        seconds = time.perf_counter() - start
        connection.send(Answer(value, seconds, _memory("VmHWM") - imported_bytes))


def _memory(field: str) -> int:
    """Memory of this process in bytes by the kernel's count; 0 if the kernel has no such field."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)


def _forget_peak() -> None:
    """Reset VmHWM to the memory held now."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return
