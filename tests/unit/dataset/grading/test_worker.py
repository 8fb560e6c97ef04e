"""The math-verify process by itself: it answers line by line within bounds, and ends with its input."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest


class Worker:
    def __init__(self) -> None:
        command = [sys.executable, "-m", "eztinker.dataset.grading.worker"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def asked(self, ground_truth: str, answer: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([ground_truth, answer]) + "\n")
        self.process.stdin.flush()
        return self.said()


@pytest.fixture
def worker() -> Iterator[Worker]:
    started = Worker()
    yield started
    started.process.kill()
    started.process.wait()
    for stream in (started.process.stdin, started.process.stdout):
        assert stream is not None
        stream.close()


def test_it_says_when_it_is_ready_answers_in_order_and_ends_with_its_input(worker: Worker):
    assert worker.said() == "ready"
    assert worker.asked("72", "36+36") == "true"
    assert worker.asked("72", "73") == "false"
    assert worker.asked(r"\frac{1}{2}", "0.5") == "true"
    assert worker.asked("72", "no mathematics {") == "null"
    assert worker.process.stdin is not None
    worker.process.stdin.close()
    assert worker.process.wait(10) == 0


def test_an_answer_that_loops_has_no_verdict_and_the_next_one_is_answered(worker: Worker):
    assert worker.said() == "ready"
    assert worker.asked("72", "9" + "^{9" * 6 + "}" * 6) == "null"
    assert worker.asked("72", "72") == "true"
