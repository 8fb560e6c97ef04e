"""What a run says where no bar can be shown."""

from __future__ import annotations

import io
import threading

import pytest
from rich.console import Console

from eztinker.rl.display import counted, lines


@pytest.mark.parametrize(("number", "text"), [(0, "0 rounds"), (1, "1 round"), (2, "2 rounds")])
def test_one_is_said_in_the_singular(number: int, text: str):
    assert counted(number, "round") == text


def test_a_pipe_gets_a_line_every_now_and_then_and_a_terminal_none():
    told = threading.Event()
    asked: list[bool] = []

    def text() -> str:
        asked.append(True)
        if len(asked) == 3:
            told.set()
        return "Sampling: 3 of 8"

    pipe = io.StringIO()
    with lines(Console(file=pipe), text, every_seconds=0.01):
        assert told.wait(20)
    assert pipe.getvalue().startswith("Sampling: 3 of 8 after 0 s\nSampling: 3 of 8 after 0 s\n")

    terminal = io.StringIO()
    with lines(Console(file=terminal, force_terminal=True), text, every_seconds=0.01):
        pass
    assert terminal.getvalue() == ""


def test_nothing_is_said_of_work_that_is_over():
    pipe = io.StringIO()
    asked = threading.Event()

    def text() -> str:
        asked.set()
        return ""

    with lines(Console(file=pipe), text, every_seconds=0.01):
        assert asked.wait(20)
    assert pipe.getvalue() == ""
