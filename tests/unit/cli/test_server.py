"""What `eztinker server` prints when it starts: the new key on a terminal, and where it is in a file."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from eztinker.cli.server import _panel
from eztinker.keys.server_key import KEY_FILE, StoredKey
from eztinker.settings.server_config import load_config

KEY = "tml-" + "k" * 43


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_new_key_is_shown_on_a_terminal_alone(tmp_path: Path, is_terminal: bool):
    """What is not a terminal is a file or a log, where the key would stay."""
    output = StringIO()
    console = Console(file=output, force_terminal=is_terminal, width=200, soft_wrap=True)
    config = load_config(data_dir=tmp_path)
    stored = StoredKey(key=KEY, is_new=True)
    console.print(_panel("http://127.0.0.1:1", config, ["tiny"], stored, shows_key=console.is_terminal))
    assert (KEY in output.getvalue()) == is_terminal
    assert str(tmp_path / KEY_FILE) in output.getvalue()
