"""A server with the scripted engine, one per test module; a test that needs its own asks for `serve_scripted`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import RunningServer, replaced, scripted_marks_in, serving_scripted


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    directory = tmp_path_factory.mktemp("server")
    some_operations_are_never_answered = {"eztinker.service.service.PARK_SECONDS": 0.1}
    with (
        scripted_marks_in(directory),
        replaced(some_operations_are_never_answered),
        # to time one wrong key takes hundreds of them
        serving_scripted(directory, poll_hold_seconds=0.5, max_wrong_keys=10**6) as running,
    ):
        yield running
