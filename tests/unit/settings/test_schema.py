"""What is read in a schema: names, kinds, bounds, defaults and help of its settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from eztinker.errors import InvalidInput
from eztinker.settings.schema import check_dataclass, settings_of
from eztinker.settings.server_config import ServerConfig


class Example(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="EX_")

    text: str = Field("", description="A text; of one sentence.")
    count: int | None = Field(None, ge=1, description="A count. Why it counts.")
    percent: int = Field(5, ge=0, le=100)
    share: float = Field(0.5, gt=0, lt=1)
    pause_seconds: float = Field(2.0, ge=0)
    names: list[str] = Field(default_factory=list)
    kind: Literal["a", "b"] = "a"
    is_on: bool = True
    folder: Path | None = None
    key: SecretStr | None = None


@pytest.mark.parametrize(
    ("name", "flag", "values", "default"),
    [
        ("text", "--text", "text", None),
        ("count", "--count", "number, at least 1", None),
        ("percent", "--percent", "number, from 0 to 100", "5"),
        ("share", "--share", "number, between 0 and 1", "0.5"),
        ("pause_seconds", "--pause-seconds", "seconds, 0 or more", "2"),
        ("names", "--names", "list of text", None),
        ("kind", "--kind", "`a`, `b`", "a"),
        ("is_on", "--no-is-on", "`true`, `false`", "true"),
        ("folder", "--folder", "directory", None),
    ],
)
def test_a_setting_says_what_it_takes(name: str, flag: str, values: str, default: str | None):
    setting = settings_of(Example)[name]
    assert (setting.flags, setting.values, setting.default) == ((flag,), values, default)
    assert setting.variable == f"EX_{name.upper()}"


def test_a_secret_has_no_flag():
    assert settings_of(Example)["key"].flags == ()


def test_the_first_sentence_is_the_short_help():
    short = [settings_of(Example)[name].short_help for name in ("text", "count")]
    assert short == ["A text; of one sentence.", "A count."]


def test_every_short_help_fits_a_few_lines_of_a_terminal():
    assert all(5 < len(setting.short_help) <= 100 for setting in settings_of(ServerConfig).values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    size: Annotated[int, Field(ge=1)] = 1
    folder: Path | None = None
    kind: Literal["a", "b", "c"] = "a"

    def __post_init__(self) -> None:
        check_dataclass(self)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"size": "many"}, "size should be a valid integer, unable to parse string as an integer, got 'many'"),
        ({"kind": "d"}, "kind must be a, b or c, got 'd'"),
    ],
)
def test_a_dataclass_refuses_what_its_schema_does_not_allow(wrong: dict[str, Any], sentence: str):
    with pytest.raises(InvalidInput) as error:
        Checked(**wrong)
    assert error.value.message == sentence
    assert error.value.field == next(iter(wrong))


def test_a_dataclass_keeps_values_as_their_types_say():
    given: dict[str, Any] = {"size": "3", "folder": "here"}
    assert Checked(**given) == Checked(size=3, folder=Path("here"))
