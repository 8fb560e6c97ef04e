"""Servers with the real engine, one per test module, in this process or in one of their own; clients of the former."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import tinker

from eztinker.settings.data_dir import RunningServer as ChildServer
from tests.servers import API_KEY, RunningServer, Serve, StartChild, replaced, serving_in_child, serving_models


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """`serve(models, **settings)` starts a server in this process, with the real engine."""
    with ExitStack() as stack:

        def start(
            models: Mapping[str, Path], *, constants: Mapping[str, object] | None = None, **settings: Any
        ) -> RunningServer:
            stack.enter_context(replaced(constants))
            return stack.enter_context(serving_models(tmp_path_factory.mktemp("data"), models, **settings))

        yield start


@pytest.fixture(scope="module")
def start_child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartChild]:
    """`start_child(models, *flags)` starts a server in a process of its own."""
    with ExitStack() as stack:

        def start(models: Mapping[str, Path], *flags: str) -> ChildServer:
            return stack.enter_context(serving_in_child(tmp_path_factory.mktemp("child") / "data", models, *flags))

        yield start


@pytest.fixture(scope="module")
def server(serve: Serve, tiny_model: Callable[..., Path]) -> RunningServer:
    """A server of `tiny`, a Qwen2; modules that need another override this."""
    return serve({"tiny": tiny_model("qwen2")})


@pytest.fixture
def service(server: RunningServer) -> Iterator[tinker.ServiceClient]:
    with tinker.ServiceClient(base_url=server.url, api_key=API_KEY) as client:
        yield client


@pytest.fixture
def rest(server: RunningServer) -> tinker.RestClient:
    return tinker.RestClient(base_url=server.url, api_key=API_KEY)


@pytest.fixture
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client
