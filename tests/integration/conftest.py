"""Servers with the scripted engine, in this process: one per test, over `tmp_path / "data"`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers import RunningServer, ServeScripted, replaced, scripted_marks_in, serving_scripted


@pytest.fixture
def serve_scripted(tmp_path: Path) -> Iterator[ServeScripted]:
    """`serve_scripted(**settings)` starts a server; its engine keeps its marks in `tmp_path`."""
    with ExitStack() as stack:

        def serve(*, constants: Mapping[str, object] | None = None, **settings: Any) -> RunningServer:
            stack.enter_context(scripted_marks_in(tmp_path))
            stack.enter_context(replaced(constants))
            return stack.enter_context(serving_scripted(tmp_path / "data", **settings))

        yield serve


@pytest.fixture
def server(serve_scripted: ServeScripted) -> RunningServer:
    return serve_scripted(poll_hold_seconds=0.5)


@pytest.fixture
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client
