"""The command line as a user meets it, without a server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer.main

from eztinker import __version__
from eztinker.cli import completion
from eztinker.cli.app import app, main
from eztinker.cli.output import age, plain, size
from eztinker.keys.server_key import ensure_api_key
from eztinker.settings.data_dir import RunningServer, announced, claim


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory and data directory, and no variable that names a server."""
    for name in [name for name in os.environ if name.startswith(("EZTINKER_", "TINKER_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EZTINKER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("EZTINKER_BASE_URL", "http://127.0.0.1:1")
    (tmp_path / "data").mkdir(mode=0o700)
    return tmp_path / "data"


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """The command line with these arguments."""

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["eztinker", *arguments])
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with pytest.raises(SystemExit) as exit_:
                main()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        captured = capsys.readouterr()
        code = exit_.value.code
        return Outcome(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run


def test_every_command_helps_with_a_sentence(cli: Callable[..., Outcome]):
    commands = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    assert {"server", "demo", "env", "models", "runs", "list", "list-runs", "checkpoints"} <= set(commands)
    assert {"create", "delete", "sample", "save", "status", "health", "version", "doctor"} <= set(commands)
    for name in commands:
        outcome = cli(name, "--help")
        assert outcome.code == 0
        assert "Usage: eztinker" in outcome.out


def test_help_imports_little():
    """Half a second is what a user waits without noticing; a bounded import list keeps it on any machine."""
    code = "import sys, eztinker.cli.app; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    packages = {name.split(".")[0] for name in loaded if not name.startswith("_")}
    assert packages - sys.stdlib_module_names <= {"eztinker", "typer", "annotated_doc", "shellingham"}
    assert len(loaded) < 350


def test_the_version_is_that_of_the_package(cli: Callable[..., Outcome]):
    assert cli("version").out == f"eztinker {__version__}\n"
    assert json.loads(cli("version", "--json").out) == {"version": __version__}
    assert (cli("--version").out, cli("--version").code) == (f"eztinker {__version__}\n", 0)


def test_a_wrong_flag_is_wrong_usage(cli: Callable[..., Outcome]):
    assert cli("runs", "--prot").code == 2


@pytest.mark.parametrize(
    "command",
    [
        ["health"],
        ["status"],
        ["models"],
        ["runs"],
        ["list-runs", "--json"],
        ["checkpoints"],
        ["delete", "run_1", "--yes"],
        ["create", "org/model"],
        ["sample", "run_1", "Hello"],
        ["save", "run_1", "name"],
        ["export", "peft", "tinker://run_1/weights/name", "folder"],
    ],
    ids=lambda command: command[0],
)
def test_without_a_server_one_line_names_the_command_that_helps(cli: Callable[..., Outcome], command: list[str]):
    outcome = cli(*command)
    assert outcome.code == 1
    assert outcome.out == ""
    assert outcome.err.startswith("Error: No EZTinker server answers at http://127.0.0.1:1")
    assert "eztinker server" in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_shadow_hub_holds_models_and_datasets_under_their_ids(
    cli: Callable[..., Outcome], tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("EZTINKER_API_KEY", "tml-key")
    (tmp_path / "problems").mkdir()
    command = ["shadow-hub", "hub", f"--base-model=Qwen/Qwen3-8B={tiny_model_dir}", "--dataset=openai/gsm8k=problems"]
    first, again = cli(*command), cli(*command)
    assert first.code == again.code == 0
    assert first.out.splitlines() == [
        f"cd {tmp_path / 'hub'}",
        "export HF_HUB_OFFLINE=1",
        "export TINKER_BASE_URL=http://127.0.0.1:1",
        "export TINKER_API_KEY=tml-key",
    ]
    assert (tmp_path / "hub/Qwen/Qwen3-8B/tokenizer.json").is_file()
    assert (tmp_path / "hub/openai/gsm8k").resolve() == tmp_path / "problems"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--dataset=openai/gsm8k"], "A dataset is written NAME=DIRECTORY, got 'openai/gsm8k'"),
        (["--dataset=openai/gsm8k=nowhere"], "The directory nowhere of dataset 'openai/gsm8k' does not exist"),
        (["--dataset=../outside=there"], "looks like ORGANISATION/NAME, got '../outside'"),
        (["--dataset=/root=there"], "looks like ORGANISATION/NAME, got '/root'"),
        (["--dataset=taken=there"], "exists already and is another folder"),
    ],
)
def test_what_cannot_be_laid_out_is_told(
    cli: Callable[..., Outcome], tiny_model_dir: Path, tmp_path: Path, arguments: list[str], sentence: str
):
    (tmp_path / "there").mkdir()
    (tmp_path / "hub/taken").mkdir(parents=True)
    outcome = cli("shadow-hub", "hub", f"--base-model=tiny={tiny_model_dir}", *arguments)
    assert outcome.code == 1
    assert sentence in outcome.err


@pytest.mark.parametrize("directory", ["notes", "notes/hub", "hub"])
def test_a_shadow_hub_is_not_laid_out_over_a_file(
    cli: Callable[..., Outcome], tiny_model_dir: Path, tmp_path: Path, directory: str
):
    (tmp_path / "hub").mkdir()
    for name in ("notes", "hub/Qwen"):
        (tmp_path / name).write_text("kept")
    outcome = cli("shadow-hub", directory, f"--base-model=Qwen/Qwen3-8B={tiny_model_dir}")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "it is no directory" in outcome.err


@pytest.mark.parametrize(
    ("output_dir", "sentence"),
    [
        ("notes", "notes cannot be the output directory: it is no directory"),
        ("notes/run/1", "notes/run/1 cannot be the output directory: it is no directory because notes is not one"),
        ("broken", "broken/plots cannot be the directory plots of a run: it is no directory"),
        ("odd", "odd/report.html is a directory, and a run writes a file there"),
    ],
)
def test_a_demo_that_could_not_write_its_results_starts_no_server(
    cli: Callable[..., Outcome], tmp_path: Path, data_dir: Path, output_dir: str, sentence: str
):
    for name in ("broken", "odd/report.html"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("notes", "broken/plots"):
        (tmp_path / name).write_text("kept")
    outcome = cli("demo", "--output-dir", output_dir, "--rounds=1")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (1, "", 1)
    assert outcome.err.startswith(f"Error: {sentence}")
    assert list(data_dir.iterdir()) == []


def test_a_path_that_is_no_checkpoint_is_refused(cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("eztinker.settings.client_settings.server_is_up", lambda base_url: True)
    monkeypatch.setenv("EZTINKER_API_KEY", "tml-key")
    outcome = cli("delete", "--yes", "tinker://run-7/step")
    assert outcome.code == 1
    assert "tinker://RUN/weights/NAME, got 'tinker://run-7/step'" in outcome.err


def test_env_sets_both_variables_in_a_shell(cli: Callable[..., Outcome], data_dir: Path):
    key = ensure_api_key(data_dir).key
    code = f'{cli("env").out}\nprintf \'%s %s\' "$TINKER_BASE_URL" "$TINKER_API_KEY"'
    shell = subprocess.run(["sh", "-c", code], capture_output=True, text=True, check=True)
    assert shell.stdout == f"http://127.0.0.1:1 {key}"


def test_env_survives_a_key_full_of_shell(cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch):
    key = "tml-'\"$(exit 3)`exit 4`;&|"
    monkeypatch.setenv("EZTINKER_API_KEY", key)
    code = f'{cli("env").out}\nprintf %s "$TINKER_API_KEY"'
    assert subprocess.run(["sh", "-c", code], capture_output=True, text=True, check=True).stdout == key


def test_env_without_a_key_says_what_makes_one(cli: Callable[..., Outcome]):
    outcome = cli("env")
    assert (outcome.code, outcome.out) == (1, "")
    assert "eztinker server" in outcome.err


def test_a_port_in_use_is_refused_in_one_line(cli: Callable[..., Outcome]):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = cli("server", "--port", str(port))
    assert outcome.code == 1
    assert f"Cannot listen on 127.0.0.1:{port} (Address already in use" in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_second_server_on_one_data_directory_is_refused_in_one_line(cli: Callable[..., Outcome], data_dir: Path):
    with claim(data_dir), announced(data_dir, RunningServer(url="http://127.0.0.1:8000", pid=4711)):
        outcome = cli("server", "--port", "0")
    assert outcome.code == 1
    assert "Another server (http://127.0.0.1:8000, process 4711)" in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--port", "99999"], "--port: port should be less than or equal to 65535, got 99999"),
        (["--dtype", "float8"], "--dtype: dtype should be"),
        (["--host", "0.0.0.0"], "--allow-remote"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_in_one_line(
    cli: Callable[..., Outcome], flags: list[str], expected: str
):
    outcome = cli("server", *flags)
    assert outcome.code == 1
    assert expected in outcome.err
    assert outcome.err.count("\n") == 1


def test_the_old_name_of_the_data_directory_is_accepted(cli: Callable[..., Outcome], tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    assert f"The data directory {tmp_path}/file" in cli("server", "--checkpoints-dir", str(tmp_path / "file")).err


def test_the_configuration_page_is_current(cli: Callable[..., Outcome]):
    page = Path(__file__).parents[3] / "docs" / "configuration.md"
    assert cli("settings", "--markdown").out == page.read_text(encoding="utf-8"), "run: make docs"


def test_settings_prints_the_values_in_force(cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EZTINKER_PORT", "8123")
    assert json.loads(cli("settings", "--json").out)["port"] == 8123


def test_text_of_others_cannot_steer_the_terminal():
    assert plain("a\x1b[2Jb\rc\x9bd\n") == "a�[2Jb�c�d\n"


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(0, "0 B"), (999, "999 B"), (4_600_000, "4.6 MB"), (24_000_000_000, "24 GB"), (None, None)]
)
def test_sizes_are_decimal(num_bytes: int | None, text: str | None):
    assert size(num_bytes) == text


@pytest.mark.parametrize(
    ("ago", "text"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "59 min"), (7200, "2 h"), (86400 * 3.9, "3 d"), (-5, "0 s")],
)
def test_an_age_is_told_in_its_largest_unit(ago: float, text: str):
    now = datetime(2026, 5, 1, 12, tzinfo=UTC)
    assert age((now - timedelta(seconds=ago)).isoformat(), now) == text


def test_keys_are_made_listed_and_revoked_without_a_server(cli: Callable[..., Outcome], data_dir: Path):
    made = cli("keys", "create", "--owner", "ann")
    assert made.out.startswith("tml-1-")
    assert made.out.count("\n") == 1  # nothing but the key, so that a script can take it
    assert "cannot be shown again" in made.err
    second = json.loads(cli("keys", "create", "--owner", "bob", "--json").out)
    assert second["key"].startswith("tml-2-")
    assert cli("keys", "revoke", "1").out == "Revoked key 1 of ann\n"
    listed = cli("keys", "list")
    assert "tml-" not in listed.out
    rows = json.loads(cli("keys", "list", "--json").out)
    assert [(row["key_id"], row["owner"], row["revoked_at"] is None) for row in rows] == [
        (1, "ann", False),
        (2, "bob", True),
    ]


def test_keys_are_made_and_revoked_by_the_name_of_their_owner(cli: Callable[..., Outcome]):
    assert "No keys have been handed out yet" in cli("keys", "list").out
    assert json.loads(cli("keys", "list", "--json").out) == []
    for name in ("ann", "bob", "ann"):
        assert cli("keys", "create", name).code == 0
    assert cli("keys", "revoke", "ann").out == "Revoked key 1 of ann\nRevoked key 3 of ann\n"
    again = cli("keys", "revoke", "ann")
    assert (again.code, "ann has no valid key" in again.err) == (1, True)
    assert cli("keys", "revoke", "2").out == "Revoked key 2 of bob\n"
    assert cli("keys", "create").code == cli("keys", "create", "ann", "--owner", "bob").code == 2


def test_tab_offers_nothing_and_says_nothing_without_a_server(
    cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
):
    assert cli("keys", "create", "ann").code == 0
    assert completion.keys("") == ["1", "ann"]
    assert completion.keys("a") == ["ann"]
    offers = (completion.runs, completion.checkpoints, completion.models, completion.anything_to_sample)
    assert [offer("") for offer in offers] == [[]] * 4
    monkeypatch.setenv("EZTINKER_BASE_URL", "no address")
    assert [offer("tinker://") for offer in offers] == [[]] * 4


def test_a_path_that_bash_has_broken_is_one_word_again():
    words = {
        "_EZTINKER_COMPLETE": "complete_bash",
        "COMP_WORDS": "eztinker sample tinker : //run_1/w",
        "COMP_CWORD": "4",
    }
    completion.rejoin_words(words)
    assert (words["COMP_WORDS"], words["COMP_CWORD"]) == ("eztinker sample tinker://run_1/w", "2")
    whole = {"_EZTINKER_COMPLETE": "complete_bash", "COMP_WORDS": "eztinker sample run", "COMP_CWORD": "2"}
    completion.rejoin_words(untouched := dict(whole))
    assert untouched == whole


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["create", "--owner", "a b"], "An owner has"), (["revoke", "7"], "No key has the id 7")],
)
def test_a_key_command_fails_in_one_line(cli: Callable[..., Outcome], arguments: list[str], sentence: str):
    failed = cli("keys", *arguments)
    assert (failed.code, failed.err.count("\n")) == (1, 1)
    assert sentence in failed.err


def test_the_session_timeout_has_a_short_flag(cli: Callable[..., Outcome]):
    refused = cli("server", "--session-timeout", "0")
    assert (refused.code, "greater than 0" in refused.err) == (1, True)
