"""Commands that go through the SDK, against a server that is killed under them and one that never was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from eztinker.keys.server_key import read_api_key
from eztinker.rest_client import client_with_timeout
from eztinker.settings.data_dir import RunningServer
from tests.servers import serving_in_child, wait_until

MODEL = "tiny/llama"


def start(url: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "eztinker", *arguments],
        env={**os.environ, "EZTINKER_BASE_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def server(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    with serving_in_child(tmp_path / "data", {MODEL: tiny_model_dir}) as running:
        monkeypatch.setenv("EZTINKER_BASE_URL", running.url)
        monkeypatch.setenv("EZTINKER_API_KEY", read_api_key(tmp_path / "data") or "")
        with client_with_timeout(20) as client:
            wait_until(lambda: client.status()["engine"]["state"] == "ready")
        yield running


def children_of(pid: int) -> list[int]:
    """Processes that any thread of this one has started."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for each in lists for child in each.read_text().split()]


def wait_for_work(command: subprocess.Popen[str]) -> None:
    """Come back once the server has something to do for `command`, which takes seconds to import the SDK."""
    deadline = time.monotonic() + 90
    with client_with_timeout(20) as client:
        while not ((facts := client.status())["queue"] or any(facts["activity"].values())):
            assert command.poll() is None, command.communicate()
            assert time.monotonic() < deadline, facts
            time.sleep(0.05)


@pytest.mark.parametrize(
    "arguments", [("create", MODEL), ("save", "mine", "kept"), ("sample", MODEL, "Hello", "--max-tokens", "200")]
)
def test_a_command_whose_server_is_killed_ends_with_one_sentence(server: RunningServer, arguments: tuple[str, ...]):
    if arguments[0] == "save":
        assert start(server.url, "create", MODEL, "--name", "mine").wait(120) == 0
    workers = children_of(server.pid)
    assert workers
    for worker in workers:  # so that the command still waits when the server is killed
        os.kill(worker, signal.SIGSTOP)
    command = start(server.url, *arguments)
    try:
        wait_for_work(command)
        for pid in (server.pid, *workers):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        said, complaint = command.communicate(timeout=100)
        seconds = time.monotonic() - killed
    finally:
        command.kill()
        for worker in workers:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
    assert (command.returncode, said, complaint.count("\n")) == (1, "", 1), complaint
    assert complaint.startswith(f"Error: The server at {server.url} stopped answering")
    assert seconds < 60


@pytest.mark.parametrize("arguments", [("create", MODEL), ("save", "mine", "kept"), ("sample", MODEL, "Hello")])
def test_a_command_without_a_server_ends_at_once_with_one_sentence(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("EZTINKER_API_KEY", "tml-any")
    url = "http://127.0.0.1:9"  # nobody listens on the port of the discard service
    command = start(url, *arguments)
    said, complaint = command.communicate(timeout=60)
    assert (command.returncode, said, complaint.count("\n")) == (1, "", 1), complaint
    assert complaint.startswith(f"Error: No EZTinker server answers at {url}")
