"""Servers for tests, of three kinds: in this process with the scripted engine or the real one, and in a child process.

`serving`, `serving_scripted` and `serving_in_child` are context managers; the conftest files make fixtures of them.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from eztinker.api.app import create_app
from eztinker.api.http_server import http_server
from eztinker.base_models.base_model import BaseModel, read_base_model
from eztinker.base_models.catalog import Catalog
from eztinker.cli.child_server import child_server
from eztinker.keys.issued_keys import issue_key
from eztinker.service.execution.engine_link import ENGINE_ARGV
from eztinker.settings.data_dir import RunningServer as ChildServer
from eztinker.settings.server_config import ServerConfig

API_KEY = "tml-test-key"
SCRIPTED_ENGINE_ARGV = (sys.executable, str(Path(__file__).with_name("scripted_engine.py")))
SCRIPTED_BASE_MODEL = BaseModel(
    name="tiny", directory=Path("/none"), model_type="llama", vocab_size=264, context_length=64, eos_token_ids=(256,)
)


@dataclass(frozen=True)
class RunningServer:
    url: str
    app: FastAPI
    data_dir: Path

    def client(self, **headers: str) -> httpx.Client:
        """Speaks raw HTTP with the right key."""
        return httpx.Client(base_url=f"{self.url}/api/v1", headers={"x-api-key": API_KEY} | headers, timeout=20)


class ServeScripted(Protocol):
    def __call__(self, *, constants: Mapping[str, object] | None = None, **settings: Any) -> RunningServer:
        """Start a server with the scripted engine, which ends with the fixture; `constants` of modules are replaced."""
        ...


class Serve(Protocol):
    def __call__(
        self, models: Mapping[str, Path], *, constants: Mapping[str, object] | None = None, **settings: Any
    ) -> RunningServer:
        """Start a server with the real engine over `models`, which ends with the fixture."""
        ...


class StartChild(Protocol):
    def __call__(self, models: Mapping[str, Path], *flags: str) -> ChildServer:
        """Start a server in a process of its own, which ends with the fixture."""
        ...


def key_of(server: RunningServer, owner: str) -> str:
    """A second key of the server, which belongs to `owner`."""
    return issue_key(server.data_dir, owner, datetime.now(UTC)).key


@contextmanager
def serving(
    data_dir: Path, catalog: Catalog, *, engine_argv: Sequence[str] = ENGINE_ARGV, **settings: Any
) -> Iterator[RunningServer]:
    """A server over `data_dir` for the length of the block."""
    config = ServerConfig(
        data_dir=data_dir, api_key=SecretStr(API_KEY), **({"threads": 1, "dtype": "float32"} | settings)
    )
    app = create_app(config, catalog, engine_argv=engine_argv)
    server = http_server(app, drain_seconds=1)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield RunningServer(url=f"http://127.0.0.1:{port}", app=app, data_dir=data_dir)
    finally:
        server.should_exit = True
        thread.join()


def wait_until(condition: Callable[[], bool]) -> None:
    """Come back once `condition` holds; fail if it does not within twenty seconds."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def serving_scripted(data_dir: Path, **settings: Any) -> Iterator[RunningServer]:
    """A server whose engine follows the rules of scripted_engine.py."""
    catalog = Catalog([SCRIPTED_BASE_MODEL])
    with serving(data_dir, catalog, engine_argv=SCRIPTED_ENGINE_ARGV, **settings) as server:
        yield server


@contextmanager
def serving_models(data_dir: Path, models: Mapping[str, Path], **settings: Any) -> Iterator[RunningServer]:
    """A server with the real engine over the model folders named."""
    catalog = Catalog([read_base_model(name, directory) for name, directory in models.items()])
    with serving(data_dir, catalog, **settings) as server:
        yield server


@contextmanager
def serving_in_child(data_dir: Path, models: Mapping[str, Path], *flags: str) -> Iterator[ChildServer]:
    """A server in a process of its own, so that it shares neither interpreter nor memory with the test."""
    named = [part for name, directory in models.items() for part in ("--base-model", f"{name}={directory}")]
    with child_server(data_dir, [*named, *flags]) as server:
        yield server


@contextmanager
def replaced(constants: Mapping[str, object] | None) -> Iterator[None]:
    """Give constants, named as `package.module.NAME`, other values for the length of the block."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (constants or {}).items():
            patch.setattr(name, value)
        yield


@contextmanager
def scripted_marks_in(directory: Path) -> Iterator[None]:
    """Let scripted engines keep their marks, and look for them, in `directory`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCRIPTED_ENGINE_DIRECTORY", str(directory))
        yield
