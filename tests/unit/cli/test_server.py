"""What `eztinker server` says when it starts: where its key is, and why it cannot listen."""

from __future__ import annotations

import re
import socket
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from eztinker.cli.server import _listening_socket, _panel
from eztinker.errors import ConfigError
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


def test_a_port_in_use_is_named_once():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        expected = f"Cannot listen on 127.0.0.1:{port} (Address already in use); stop the program that does, or "
        with pytest.raises(ConfigError, match=f"^{re.escape(expected)}pass another --port$"):
            _listening_socket("127.0.0.1", port).__enter__()
