"""Every command of the unmodified `tinker` command line that speaks to the server."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import tinker
from click.testing import CliRunner, Result
from tinker.cli.__main__ import main_cli
from tinker.cli.exceptions import TinkerCliError

from tests.servers import API_KEY, RunningServer

Cli = Callable[..., Result]


@pytest.fixture
def cli(server: RunningServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """`cli("run", "list")`: a command of a user whose environment points here."""
    monkeypatch.setenv("TINKER_BASE_URL", server.url)
    monkeypatch.setenv("TINKER_API_KEY", API_KEY)
    monkeypatch.setenv("HOME", str(tmp_path))

    def run(*arguments: str, input: str | None = None) -> Result:
        result = CliRunner().invoke(main_cli, arguments, input=input)
        assert result.exit_code == 0, result.output
        return result

    return run


def as_json(cli: Cli, *arguments: str) -> Any:
    return json.loads(cli("--format", "json", *arguments).stdout)


@pytest.mark.conforms(95)
def test_models_and_access_are_shown(cli: Cli):
    assert "tiny" in cli("model", "list").stdout
    assert cli("auth", "status").stdout == "Credentials available: yes\nTinker accessible: yes\n"
    assert as_json(cli, "auth", "whoami")["user_urn"] == "tml:user:local"
    assert "tinker" in cli("version").stdout.lower()


@pytest.mark.conforms(95)
def test_runs_are_listed_and_shown(cli: Cli, trainer: tinker.TrainingClient):
    trainer.save_state("w").result()
    assert trainer.model_id in [run["training_run_id"] for run in as_json(cli, "run", "list", "--limit", "0")["runs"]]
    shown = as_json(cli, "run", "info", trainer.model_id)
    assert (shown["base_model"], shown["lora_rank"], shown["corrupted"]) == ("tiny", 4, False)
    assert shown["last_checkpoint"]["checkpoint_id"] == "weights/w"


@pytest.mark.conforms(95)
def test_checkpoints_are_listed_shown_shared_aged_and_deleted(cli: Cli, trainer: tinker.TrainingClient):
    paths = [trainer.save_state(f"w{n}").result().path for n in range(3)]
    of_run = as_json(cli, "checkpoint", "list", "--run-id", trainer.model_id)["checkpoints"]
    assert [row["tinker_path"] for row in of_run] == paths[::-1]
    everything = as_json(cli, "checkpoint", "list", "--limit", "0")["checkpoints"]
    assert [row["tinker_path"] for row in everything][:3] == paths[::-1]
    cli("checkpoint", "publish", paths[0])
    cli("checkpoint", "set-ttl", paths[0], "--ttl", "3600")
    shown = as_json(cli, "checkpoint", "info", paths[0])
    assert (shown["public"], shown["lora_rank"], shown["expires_at"] is None) == (True, 4, False)
    cli("checkpoint", "unpublish", paths[0])
    cli("checkpoint", "set-ttl", paths[0], "--remove")
    shown = as_json(cli, "checkpoint", "info", paths[0])
    assert (shown["public"], shown["expires_at"]) == (False, None)
    cli("checkpoint", "delete", "--yes", *paths[:2])
    assert "1 checkpoint for run" in cli("checkpoint", "list", "--run-id", trainer.model_id).stdout
    cli("checkpoint", "delete", "--yes", "--run-id", trainer.model_id)
    assert "No checkpoints found" in cli("checkpoint", "list", "--run-id", trainer.model_id).stdout


@pytest.mark.conforms(95)
@pytest.mark.parametrize("saved_as", ["weights", "external_weights"])
def test_a_checkpoint_is_downloaded_and_leaves_nothing_behind(
    cli: Cli, rest: tinker.RestClient, trainer: tinker.TrainingClient, tmp_path: Path, saved_as: str
):
    save = trainer.save_state if saved_as == "weights" else trainer.save_weights_external
    path = save("out").result().path
    before = rest.list_user_checkpoints(limit=1000).result().checkpoints
    cli("checkpoint", "download", path, "--output", str(tmp_path))
    files = {file.name: file.read_text() for file in tmp_path.rglob("*") if file.is_file()}
    assert files == {"adapter_config.json": "{}"}  # what the scripted engine writes
    assert rest.list_user_checkpoints(limit=1000).result().checkpoints == before


@pytest.mark.conforms(95)
def test_the_trace_of_a_session_is_exported(cli: Cli, trainer: tinker.TrainingClient, tmp_path: Path):
    session_id = trainer.model_id.partition(":")[0]
    file = tmp_path / "a.pftrace"
    assert as_json(cli, "session", "export-trace", session_id, "--output", str(file))["destination"] == str(file)
    url = cli("session", "export-trace", session_id, "--url-only").stdout.strip()
    assert file.read_bytes() == httpx.get(url).content
    assert b"create_model" in file.read_bytes()


@pytest.mark.conforms(95)
def test_usage_and_storage_are_billed_at_nothing(cli: Cli, trainer: tinker.TrainingClient, tmp_path: Path):
    trainer.save_state("w").result()
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    window = [(hour + timedelta(hours=n)).strftime("%Y-%m-%dT%H:%M:%SZ") for n in (-1, 1)]
    session_id = trainer.model_id.partition(":")[0]
    usage = as_json(cli, "billing", "usage", *window)
    assert usage["sessions"][session_id] == {"user_metadata": {"purpose": "test"}}
    (event,) = (event for event in usage["data"] if event["session_id"] == session_id)
    assert (event["event_info"], event["estimated_cost_usd"]) == ({"type": "checkpoint", "count": 1}, 0.0)
    cli("billing", "usage", *window, "--csv", str(tmp_path / "usage.csv"))
    rows = list(csv.DictReader((tmp_path / "usage.csv").open()))
    assert session_id in {row["session_id"] for row in rows}
    (storage,) = as_json(cli, "billing", "checkpoint-storage")["data"]
    assert (storage["project_id"], storage["estimated_monthly_cost_usd"]) == ("default", 0.0)
    assert storage["checkpoint_count"] >= 1


def test_what_is_not_there_is_a_sentence(server: RunningServer, cli: Cli):
    failed = CliRunner().invoke(main_cli, ["run", "info", "nobody"])
    assert isinstance(failed.exception, TinkerCliError)
    assert "No such training run 'nobody'" in str(failed.exception.details)
