"""`eztinker server` as a process, and the commands that talk to it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from eztinker.cli.child_server import LOG_FILE, child_server
from eztinker.errors import ServerError
from eztinker.settings.client_settings import server_is_up
from eztinker.settings.data_dir import RunningServer, running_server
from tests.servers import serving_in_child

MODEL = "tiny/llama"


@dataclass(frozen=True)
class Started:
    server: RunningServer
    data_dir: Path

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One command of a user whose only pointer to the server is its data directory."""
        named = ("EZTINKER_BASE_URL", "EZTINKER_API_KEY", "TINKER_BASE_URL", "TINKER_API_KEY")
        environment = {name: value for name, value in os.environ.items() if name not in named}
        return subprocess.run(
            [sys.executable, "-m", "eztinker", *arguments],
            env=environment | {"EZTINKER_DATA_DIR": str(self.data_dir)},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def json(self, *arguments: str) -> object:
        done = self.cli(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Iterator[Started]:
    data_dir = tmp_path_factory.mktemp("server") / "data"
    with serving_in_child(data_dir, {MODEL: tiny_model_dir}) as server:
        yield Started(server, data_dir)


def test_the_panel_names_address_and_model_and_a_log_does_not_keep_the_new_key(started: Started):
    panel = (started.data_dir / LOG_FILE).read_text()
    key = (started.data_dir / "api_key").read_text().strip()
    for part in (started.server.url, MODEL, "api_key", "export TINKER_BASE_URL=", "export TINKER_API_KEY="):
        assert part in panel
    assert key not in panel
    assert stat.S_IMODE((started.data_dir / "api_key").stat().st_mode) == 0o600


def test_the_commands_find_the_server_by_its_data_directory(started: Started):
    assert started.cli("health").stdout == f"The server at {started.server.url} answers.\n"
    models = started.json("models")
    assert isinstance(models, list)
    assert [model["model_name"] for model in models] == [MODEL]


def test_a_run_is_made_sampled_saved_listed_and_deleted(started: Started):
    run_id = started.cli("create", MODEL, "--rank", "2").stdout.strip()
    assert re.fullmatch(r"run_\S+", run_id)
    completions = started.json("sample", run_id, "Hello", "--max-tokens", "3", "-n", "2", "--seed", "1")
    assert isinstance(completions, list)
    assert len(completions) == 2
    assert all(1 <= len(completion["tokens"]) <= 3 for completion in completions)

    path = started.cli("save", run_id, "by-hand").stdout.strip()
    assert re.fullmatch(r"tinker://\S+/weights/by-hand", path)
    assert path in started.cli("checkpoints", run_id).stdout
    snapshot = started.cli("save", run_id, "by-hand", "--sampler").stdout.strip()
    assert started.json("sample", snapshot, "Hello", "--max-tokens", "3", "--seed", "1") == completions[:1]
    assert run_id in started.cli("runs").stdout

    assert started.cli("delete", "--yes", path).stdout == f"Deleted {path}\n"
    assert path not in started.cli("checkpoints").stdout
    again = started.cli("delete", "--yes", path)
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)

    written = {path.name: stat.S_IMODE(path.stat().st_mode) for path in started.data_dir.rglob("*")}
    assert {"oplog.sqlite3", "server.json", "adapter.safetensors", LOG_FILE} <= written.keys()
    assert {name for name, mode in written.items() if mode & 0o077} == set()  # whatever may look into the directory


def test_log_readyz_and_status_name_the_kernels_in_use(started: Started):
    def state() -> dict[str, Any]:
        return httpx.get(f"{started.server.url}/readyz").json()

    while (ready := state())["status"] != "ready":
        time.sleep(0.1)
    status = started.json("status")
    assert isinstance(status, dict)
    assert ready["kernels"] == status["engine"]["kernels"].partition(":")[0]
    (line,) = (line for line in (started.data_dir / LOG_FILE).read_text().splitlines() if "Own kernels: " in line)
    assert f" Own kernels: {status['engine']['kernels']}. " in line


def test_an_unknown_model_is_refused_with_those_served(started: Started):
    refused = started.cli("create", "org/unknown")
    assert refused.returncode == 1
    assert "org/unknown" in refused.stderr
    assert MODEL in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_second_server_on_the_same_directory_says_who_is_there(started: Started):
    refused = started.cli("server", "--port", "0")
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"Error: Another server ({started.server.url}, process {started.server.pid})")


def test_a_server_that_cannot_start_gives_its_own_reason(tmp_path: Path):
    with pytest.raises(ServerError, match=r"^The directory /not/there of base model 'tiny' does not exist"):
        child_server(tmp_path, ["--base-model", "tiny=/not/there"]).__enter__()


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has the device")
@pytest.mark.parametrize("command", ["server --port 0", "demo"])
def test_a_device_that_is_not_there_ends_server_and_demo_with_one_sentence(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, command: str
):
    monkeypatch.setenv("EZTINKER_DEVICE", "mps")
    flags = ["--data-dir", str(tmp_path / "data"), "--base-model", f"{MODEL}={tiny_model_dir}"]
    argv = [sys.executable, "-m", "eztinker", *command.split(), *flags]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert re.fullmatch(r"Error: The device 'mps' is not available on this machine; available: [a-z, ]+\n", done.stderr)
    assert running_server(tmp_path / "data") is None


def test_a_log_of_a_newer_version_is_left_alone_with_one_sentence(tmp_path: Path):
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o700)
    with contextlib.closing(sqlite3.connect(data_dir / "oplog.sqlite3")) as log, log:
        log.execute("CREATE TABLE schema_version (version INTEGER PRIMARY KEY)")
        log.execute("INSERT INTO schema_version VALUES (1000)")
    command = [sys.executable, "-m", "eztinker", "server", "--port", "0", "--data-dir", str(data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert re.fullmatch(
        r"Error: The operation log has schema version 1000[^\n]+; upgrade eztinker[^\n]+\n", done.stderr
    )


def test_the_start_names_untested_versions_in_one_line(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    """The metadata of a later msgspec lies in front of the real one."""
    metadata = tmp_path / "site" / "msgspec-999.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: msgspec\nVersion: 999\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    with serving_in_child(tmp_path / "data", {MODEL: tiny_model_dir}):
        printed = (tmp_path / "data" / LOG_FILE).read_text()
    (note,) = [line for line in printed.splitlines() if line.startswith("Note: ")]
    assert "msgspec 999 is newer than" in note


def test_a_signal_stops_the_server_cleanly(tmp_path: Path, tiny_model_dir: Path):
    for number in (signal.SIGTERM, signal.SIGINT):
        command = [sys.executable, "-m", "eztinker", "server", "--port", "0", "--data-dir", str(tmp_path)]
        command += ["--base-model", f"{MODEL}={tiny_model_dir}"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            _wait_for(process, tmp_path)
            process.send_signal(number)
            _, errors = process.communicate(timeout=30)
        assert process.returncode == 0
        assert all(re.search(r" engine INFO (The engine computes|Own kernels)", line) for line in errors.splitlines())
        assert running_server(tmp_path) is None


def test_a_second_signal_stops_the_server_at_once_and_the_next_one_starts(tmp_path: Path, tiny_model_dir: Path):
    command = [sys.executable, "-m", "eztinker", "server", "--port", "0", "--data-dir", str(tmp_path)]
    command += ["--base-model", f"{MODEL}={tiny_model_dir}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _wait_for(process, tmp_path)
        while process.poll() is None:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.02)
    assert process.returncode == 128 + signal.SIGTERM
    with serving_in_child(tmp_path, {MODEL: tiny_model_dir}) as server:
        assert server_is_up(server.url)


def test_a_terminated_demo_takes_its_server_with_it(tmp_path: Path, tiny_model_dir: Path):
    """The server went on alone, and drew samples for nobody until its session had timed out."""
    data_dir = tmp_path / "data"
    command = [sys.executable, "-m", "eztinker", "demo", "--data-dir", str(data_dir), "--output-dir", str(tmp_path)]
    command += ["--base-model", f"{MODEL}={tiny_model_dir}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _wait_for(process, data_dir)
        process.terminate()
    assert process.returncode == 128 + signal.SIGTERM
    assert running_server(data_dir) is None


def _wait_for(process: subprocess.Popen[Any], data_dir: Path) -> None:
    while process.poll() is None:
        server = running_server(data_dir)
        if server and server_is_up(server.url):
            return
    raise AssertionError(f"The server ended with {process.returncode}")
