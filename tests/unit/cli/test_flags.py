"""Flags that follow from a schema: every setting has one, with its default, and nothing has to be written twice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
import typer.main
from pydantic import Field
from typer.testing import CliRunner

from eztinker.cli.app import app
from eztinker.cli.flags import add_command
from eztinker.cli.settings import _table
from eztinker.errors import ConfigError, InvalidInput
from eztinker.rl import RejectionSFTConfig
from eztinker.settings.arguments import given_settings
from eztinker.settings.schema import Shown, settings_of
from eztinker.settings.server_config import ServerConfig


class GrownConfig(ServerConfig):
    new_seconds: float = Field(7, gt=0, description="How long the new thing takes. Nobody knows why.")


@dataclass(frozen=True, kw_only=True, slots=True)
class GrownRecipe(RejectionSFTConfig):
    new_count: Annotated[int | None, Field(ge=2, description="New things."), Shown(default="as many as fit")] = None


def grown() -> GrownConfig:
    """The settings in force."""
    flags: dict[str, Any] = {}
    return GrownConfig(**flags)


def options(name: str) -> dict[str, Any]:
    """The options of a command, by the names that its function has for them."""
    command = typer.main.get_command(app).commands[name]  # pyright: ignore[reportAttributeAccessIssue]
    return {option.name: option for option in command.params}


def given(schema: type, *arguments: str) -> dict[str, Any]:
    """What a command with the flags of `schema` is given."""
    taken: list[dict[str, Any]] = []
    program = typer.Typer()
    add_command(program, "run", taken.append, lambda: schema)
    result = CliRunner().invoke(program, arguments)
    assert result.exit_code == 0, result.output
    return taken[0]


def help_of(schema: type) -> str:
    program = typer.Typer()
    add_command(program, "run", lambda settings: None, lambda: schema)
    return CliRunner().invoke(program, ["--help"], env={"COLUMNS": "200"}).output


def test_every_setting_of_the_server_has_its_flag():
    flags = {flag for option in options("server").values() for flag in option.opts}
    # others could read a key in the process list
    expected = {f"--{name.replace('_', '-')}" for name in ServerConfig.model_fields if name != "api_key"}
    assert flags == expected | {"--checkpoints-dir", "--session-timeout"}


def test_every_setting_of_rejection_sampling_has_its_flag(monkeypatch: pytest.MonkeyPatch):
    """`demo` always saves, and says of which directory its own base model is."""
    of_its_own = {"data_dir", "keep_server", "as_json"}
    names = set(RejectionSFTConfig.__dataclass_fields__)
    assert options("demo").keys() == names - {"checkpoint"} | of_its_own
    for name, setting in settings_of(RejectionSFTConfig).items():
        for flag in setting.flags:
            value = [] if setting.kind is bool else ["gsm8k"] if setting.choices else ["1"]
            monkeypatch.setattr("sys.argv", ["program", flag, *value])
            assert given_settings(RejectionSFTConfig, None).keys() == {name}


def test_the_shown_defaults_are_the_real_ones():
    shown = {name: option.show_default for name, option in options("server").items()}
    for name in ("host", "port", "max_batch_size", "max_train_tokens", "session_timeout_seconds", "poll_hold_seconds"):
        assert shown[name] == f"{ServerConfig.model_fields[name].default:{'' if name == 'host' else 'g'}}"


def test_what_is_not_on_the_command_line_is_not_given():
    assert given(ServerConfig) == given(RejectionSFTConfig) == {}


def test_flags_give_values_of_their_types():
    server = ["--port", "1", "--base-model", "a", "--base-model", "b=c", "--allow-remote", "--checkpoints-dir", "d"]
    expected = {"port": 1, "base_model": ["a", "b=c"], "allow_remote": True, "data_dir": Path("d")}
    assert given(ServerConfig, *server) == expected
    recipe = ["--epochs", "2", "--no-filter", "--fresh", "--temperature", "1"]
    assert given(RejectionSFTConfig, *recipe) == {
        "rounds": 2,
        "filter": False,
        "reset_buffer": True,
        "temperature": 1.0,
    }


def test_a_setting_added_to_the_servers_schema_is_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EZTINKER_DATA_DIR", str(tmp_path))
    assert given(GrownConfig, "--new-seconds", "3") == {"new_seconds": 3.0}
    explained = " ".join(help_of(GrownConfig).split())
    assert "--new-seconds" in explained
    assert "How long the new thing takes. [default: (7)]" in explained
    row = "| `new_seconds`<br>`--new-seconds`<br>`EZTINKER_NEW_SECONDS` | seconds, above 0 | `7` | How long the new "
    assert row + "thing takes. Nobody knows why. |" in _table(GrownConfig)

    (tmp_path / "eztinker.toml").write_text("new_seconds = 5")
    assert grown().new_seconds == 5
    monkeypatch.setenv("EZTINKER_NEW_SECONDS", "4")
    assert grown().new_seconds == 4
    (tmp_path / "eztinker.toml").write_text("new_seconds = 0")
    with pytest.raises(ConfigError, match=r"eztinker.toml, line 1: new_seconds should be greater than 0, got 0"):
        grown()


def test_a_setting_added_to_the_schema_of_rejection_sampling_is_everywhere(monkeypatch: pytest.MonkeyPatch):
    assert given(GrownRecipe, "--new-count", "3") == {"new_count": 3}
    monkeypatch.setattr("sys.argv", ["program", "--new-count", "3"])
    assert given_settings(GrownRecipe, None) == {"new_count": 3}
    assert "New things. [default: (as many as fit)]" in " ".join(help_of(GrownRecipe).split())
    assert "| `new_count`<br>`--new-count` | number, at least 2 | as many as fit | New things. |" in _table(GrownRecipe)
    with pytest.raises(InvalidInput, match="new_count must be at least 2, got 1"):
        GrownRecipe(new_count=1)


def test_a_script_explains_its_flags(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("sys.argv", ["program", "--help"])
    with pytest.raises(SystemExit) as end:
        given_settings(RejectionSFTConfig, "First line.\n\n    indented")
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert "First line.\n\n    indented\n" in said
    assert "Times to sample and train. (default: 3)" in " ".join(said.split())
