"""The server's log: secrets are left out of it, and no client can fill it."""

from __future__ import annotations

import logging
import sys

import pytest

from eztinker.api.server_log import MAX_OF_A_KIND, WINDOW_SECONDS, ServerLogHandler

KEY = "tml-" + "k" * 43


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def handler(clock: Clock, capsys: pytest.CaptureFixture[str]) -> ServerLogHandler:
    return ServerLogHandler(clock)


def record(message: str, *args: object, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("uvicorn.error", logging.WARNING, "", 0, message, args, None)
    vars(made).update(fields)
    return made


def test_ten_thousand_bad_requests_take_a_few_lines(
    handler: ServerLogHandler, clock: Clock, capsys: pytest.CaptureFixture[str]
):
    for number in range(10_000):
        handler.emit(record("Invalid HTTP request number %d received.", number))
    assert len(capsys.readouterr().err.splitlines()) == MAX_OF_A_KIND
    clock.now = WINDOW_SECONDS
    handler.emit(record("Something else"))
    assert capsys.readouterr().err.splitlines() == [
        f"{10_000 - MAX_OF_A_KIND:,} more lines within a minute: Invalid HTTP request number %d received.",
        "Something else",
    ]


def test_other_lines_are_not_left_out_with_them(handler: ServerLogHandler, capsys: pytest.CaptureFixture[str]):
    for _ in range(100):
        handler.emit(record("Invalid HTTP request received."))
    handler.emit(record("The engine stopped"))
    assert "The engine stopped" in capsys.readouterr().err


def test_what_was_left_out_is_told_at_the_end_too(handler: ServerLogHandler, capsys: pytest.CaptureFixture[str]):
    for _ in range(MAX_OF_A_KIND + 2):
        handler.emit(record("Invalid HTTP request received."))
    handler.close()
    assert "2 more lines within a minute" in capsys.readouterr().err


def test_secrets_are_left_out_of_words_arguments_and_tracebacks(
    handler: ServerLogHandler, capsys: pytest.CaptureFixture[str]
):
    try:
        raise ValueError(f"not a path: {KEY}")
    except ValueError:
        handler.emit(record(f"{KEY} of %s", KEY, exc_info=sys.exc_info()))
    shown = capsys.readouterr().err
    assert "ValueError: not a path" in shown
    assert KEY not in shown
