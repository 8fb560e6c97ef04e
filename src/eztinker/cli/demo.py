from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from eztinker.cli.output import plain, print_json
from eztinker.keys.server_key import read_api_key
from eztinker.settings.client_settings import server_is_up
from eztinker.settings.data_dir import RunningServer, local_data_dir, running_server

if TYPE_CHECKING:
    from rich.console import Console


_NOTHING_YET = "Stopped before the first round; nothing is trained yet. The same command begins again."


def schema() -> type:
    from eztinker.rl.config import RejectionSFTConfig

    return RejectionSFTConfig


def demo(
    settings: dict[str, Any],
    base_model: Annotated[
        str | None,
        typer.Option(help="The model.", metavar="NAME[=DIRECTORY]", show_default="the embedded model"),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(readable=False, help="Directory of the server.", show_default="~/.eztinker")
    ] = None,
    keep_server: Annotated[
        bool, typer.Option("--keep-server", help="Leave the demo's own server running until Ctrl-C.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
) -> None:
    """Start a server, train a model by rejection sampling, write a report.

    A server that already runs on the data directory is used as it is. Run again, it goes on after the last finished
    round of a run with the same settings.
    """
    if base_model:
        settings["base_model"] = base_model.partition("=")[0]
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit_on_signal)  # by default they would leave a server of our own behind
    base_models = [base_model] if base_model else []
    with _told_when_interrupted():
        _run(settings, data_dir or local_data_dir(), base_models, keep_server=keep_server, as_json=as_json)


def _run(settings: dict[str, Any], data_dir: Path, base_models: list[str], *, keep_server: bool, as_json: bool) -> None:
    from rich.console import Console

    from eztinker.rl import RejectionSFTConfig, run_rejection_sft
    from eztinker.rl.display import Display
    from eztinker.rl.loop import check_output_dir, require_packages

    require_packages()
    config = RejectionSFTConfig(**settings, checkpoint=True)
    if config.output_dir is not None:  # otherwise the server's models decide it, and it is checked then
        check_output_dir(config.output_dir)
    console = Console(stderr=as_json, highlight=False)
    with (
        _server(data_dir, base_models, console) as (server, is_ours),
        _told_when_interrupted(),  # before the server is stopped, which takes a moment
    ):
        summary = run_rejection_sft(config, Display(console))
        _conclude(summary, console)
        if as_json:
            print_json(summary)
        if keep_server:
            _wait_for_interrupt(server, console, is_ours=is_ours)


def _conclude(summary: dict[str, Any], console: Console) -> None:
    """Print the findings, and where report and adapter are."""
    for sentence in summary["findings"]:
        console.print(f"- {sentence}", markup=False)
    console.print(f"\nReport:   {summary['report']}\nAdapter:  {summary['adapter']}", markup=False, soft_wrap=True)
    console.print("Ask it, while 'eztinker server' runs in another terminal:", markup=False)
    console.print(f"  {summary['reuse_command']}", markup=False, soft_wrap=True)


@contextmanager
def _server(data_dir: Path, base_models: list[str], console: Console) -> Iterator[tuple[RunningServer, bool]]:
    """Find the server on `data_dir`, else start one, and say if it is ours; the environment then names it."""
    running = running_server(data_dir)
    if running and server_is_up(running.url):
        console.print(f"Using the server at {running.url}")
        _export_address(running, data_dir)
        yield running, False
        return

    from eztinker.base_models.catalog import load_catalog
    from eztinker.cli.child_server import child_server
    from eztinker.rl.display import lines

    with lines(console, lambda: "Getting the model"):
        load_catalog(base_models, console)  # here, so that a first download is seen
    flags = [flag for model in base_models for flag in ("--base-model", model)]
    console.print("Starting the server")
    with contextlib.ExitStack() as life:
        with lines(console, lambda: "Starting the server"):
            server = life.enter_context(child_server(data_dir, flags))
        _export_address(server, data_dir)
        yield server, True


@contextmanager
def _told_when_interrupted() -> Iterator[None]:
    """End the block on Ctrl-C with one line about what is kept."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        sys.stderr.write(f"\n{plain(str(interrupt) or _NOTHING_YET)}\n")
        raise typer.Exit(130) from interrupt


def _export_address(server: RunningServer, data_dir: Path) -> None:
    os.environ["EZTINKER_BASE_URL"] = server.url
    os.environ.setdefault("EZTINKER_API_KEY", read_api_key(data_dir) or "")


def _exit_on_signal(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


def _wait_for_interrupt(server: RunningServer, console: Console, *, is_ours: bool) -> None:
    if not is_ours:
        console.print(f"The server at {server.url} is not the demo's: it ran before, and goes on")
        return
    console.print(f"The server goes on at {server.url}; Ctrl-C stops it.")
    with suppress(KeyboardInterrupt):
        signal.pause()
