"""Paths of users with and without a home, and names that cannot be written down."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eztinker.errors import ConfigError
from eztinker.settings.home import expanded, home_directory, require_utf8

IS_ROOT = os.geteuid() == 0
NOBODYS_ID = 54321
"""No entry in the list of users has it."""


def test_home_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert home_directory() == Path("/home/ada")
    assert expanded("~/data") == Path("/home/ada/data")


@pytest.mark.skipif(not IS_ROOT, reason="only root may become another user")
@pytest.mark.parametrize("call", ["home_directory()", "expanded('~/data')"])
def test_a_user_without_a_home_gets_a_sentence(call: str):
    code = "import os\nfrom eztinker.errors import ConfigError\nfrom eztinker.settings.home import *\n"
    code += f"os.setuid({NOBODYS_ID})\n"
    code += f"try: print({call})\nexcept ConfigError as error: print(error.message)"
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    assert ("set HOME to a directory" if "home" in call else "write the whole path") in done.stdout


def test_the_home_of_an_unknown_user_is_refused():
    with pytest.raises(ConfigError, match=r"'~nobody-of-that-name/data'.*write the whole path"):
        expanded("~nobody-of-that-name/data")


@pytest.mark.parametrize("name", [b"mod\xe9", b"\xff", b"folder/\x80/model"])
def test_a_name_that_is_not_utf8_is_refused_with_its_bytes(name: bytes):
    with pytest.raises(ConfigError, match=r"The model has a name that is not UTF-8 here: b'.*\\x.*rename it"):
        require_utf8(Path(os.fsdecode(name)), "The model")


def test_any_utf8_name_will_do():
    path = Path("modèle/模型")
    assert require_utf8(path, "The model") == path
