"""A server with the scripted engine, one per test module."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.servers import RunningServer, serving_scripted


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    directory = tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCRIPTED_ENGINE_DIRECTORY", str(directory))
        patch.setattr("eztinker.service.service.PARK_SECONDS", 0.1)  # some operations are never answered
        # to time one wrong key takes hundreds of them
        with serving_scripted(directory, poll_hold_seconds=0.5, max_wrong_keys=10**6) as running:
            yield running


@pytest.fixture
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client
