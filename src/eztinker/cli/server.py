from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from eztinker.cli.output import WIDTH_OF_A_PIPE
from eztinker.errors import ConfigError, ServerError
from eztinker.keys.server_key import KEY_FILE, StoredKey, ensure_api_key
from eztinker.settings.addresses import url_of
from eztinker.settings.data_dir import RunningServer, announced, claim
from eztinker.tested_versions import as_note, untested_packages

if TYPE_CHECKING:
    from fastapi import FastAPI
    from rich.panel import Panel

    from eztinker.settings.server_config import ServerConfig

_OPEN_FILES = 65536
"""Limit of open files: four times as many as polls that may be held. macOS refuses one that is unlimited."""


def schema() -> type:
    from eztinker.settings.server_config import ServerConfig

    return ServerConfig


def server(settings: dict[str, Any]) -> None:
    """Serve the Tinker API on this machine.

    Flags win over EZTINKER_* variables, these over eztinker.toml.

    Example: eztinker server --base-model Qwen/Qwen2-0.5B-Instruct
    """
    os.umask(0o077)  # prompts, weights and logs are for the owner of the server alone
    _stop_on_signals()
    from eztinker.settings.server_config import load_config

    config = load_config(**settings)
    with claim(config.data_dir), _listening_socket(config.host, config.port) as listener:
        _serve(config, listener)


def _serve(config: ServerConfig, listener: socket.socket) -> None:
    """Serve on `listener` until a signal comes.

    Raises:
        ConfigError: the engine refuses its settings.
    """
    from rich.console import Console

    from eztinker.api.app import create_app
    from eztinker.base_models.catalog import load_catalog
    from eztinker.service.service import check_storage

    stored = None if config.api_key else ensure_api_key(config.data_dir)
    check_storage(config)
    catalog = load_catalog(config.base_model, Console(stderr=True))
    if untested := untested_packages():
        sys.stderr.write(f"Note: {as_note(untested)}\n")
    note = RunningServer.here(url_of(config.host, listener.getsockname()[1]))
    with announced(config.data_dir, note):
        console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else WIDTH_OF_A_PIPE)
        console.print(_panel(note.url, config, catalog.names, stored, shows_key=console.is_terminal))
        _run(create_app(config, catalog), listener)


def _run(app: FastAPI, listener: socket.socket) -> None:
    from eztinker.api.body_budget import keep_memory_returnable
    from eztinker.api.http_server import http_server

    keep_memory_returnable()
    _allow_many_connections()
    running = http_server(app)
    running.run(sockets=[listener])
    if not running.started:
        raise ServerError("The server did not start; the lines above say why")
    if refusal := app.state.service.engine.refusal:
        raise ConfigError(refusal)


def _allow_many_connections() -> None:
    """Raise the limit of open files. Every open poll is one, and most systems begin with 1,024 and grant many more."""
    try:
        import resource
    except ImportError:
        return  # not a Unix; there is no such limit
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if most == resource.RLIM_INFINITY else min(_OPEN_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


@contextmanager
def _listening_socket(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens already, so that no client is refused while the server starts."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while attempting")[0]  # Python repeats the address
        raise ConfigError(
            f"Cannot listen on {host}:{port} ({reason}); stop the program that does, or pass another --port"
        ) from error
    with listener:
        yield listener


def _stop_on_signals() -> None:
    """Let SIGTERM and Ctrl-C unwind the program, so that every clean-up runs, and exit 0."""

    def stop(signum: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(0)

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)


def _panel(
    url: str, config: ServerConfig, model_names: list[str], stored: StoredKey | None, *, shows_key: bool
) -> Panel:
    """The start-up panel: the address, a new key, and how scripts find both.

    Args:
        shows_key: False where it would stay in a file, such as a log.
    """
    from rich.panel import Panel
    from rich.table import Table

    key_file = config.data_dir / KEY_FILE
    lines = Table.grid(padding=(0, 2))
    lines.add_row("Address", url)
    lines.add_row("Models", "\n".join(model_names))
    lines.add_row("Engine", "starting, and loads a model when it is first asked for; requests wait until then")
    lines.add_row("Data", str(config.data_dir))
    if stored and stored.is_new:
        lines.add_row("New key", f"{stored.key}\n(shown once, kept in {key_file})" if shows_key else f"in {key_file}")
    lines.add_row("", "")
    lines.add_row("Tinker scripts", f"export TINKER_BASE_URL={url}")
    lines.add_row("", f"export TINKER_API_KEY={f'$(cat {key_file})' if stored else '$EZTINKER_API_KEY'}")
    lines.add_row("Stop", "Ctrl-C")
    return Panel(lines, title="EZTinker", expand=False)
