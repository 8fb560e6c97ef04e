"""The `eztinker` command line: which subcommands there are, and what a user sees when one fails.

Exit codes: 0 done, 1 an expected failure with one line on stderr, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

from eztinker.cli import (
    chat,
    checkpoints,
    completion,
    create,
    delete,
    demo,
    doctor,
    env,
    export,
    fetch,
    health,
    import_adapter,
    keys,
    label,
    models,
    runs,
    sample,
    save,
    server,
    settings,
    shadow_hub,
    status,
    version,
)
from eztinker.cli.flags import add_command
from eztinker.cli.output import fail
from eztinker.errors import EZTinkerError
from eztinker.process_end import end_process
from eztinker.standard_streams import make_output_safe

_TALKATIVE = ("tinker.lib.telemetry", "tinker.lib.internal_client_holder", "tinker.lib.retry_handler")
"""Loggers of the SDK that print errors of telemetry, heartbeats and requests; a command has its own line for them."""

app = typer.Typer(
    name="eztinker",
    help="Post-training on your own hardware, over the Tinker API.",
    epilog="First steps: 'eztinker demo' shows everything once; 'eztinker server' serves your own scripts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _eztinker(
    _: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=version.print_and_exit, is_eager=True)
    ] = False,
) -> None:
    pass


add_command(app, "demo", demo.demo, demo.schema, without=("checkpoint",))
add_command(app, "server", server.server, server.schema)
app.command("env")(env.env)
app.add_typer(keys.keys, name="keys")
app.command("settings")(settings.settings)
app.command("fetch")(fetch.fetch)
app.command("shadow-hub")(shadow_hub.shadow_hub)
app.command("status")(status.status)
app.command("health")(health.health)
app.command("doctor")(doctor.doctor)
app.command("models")(models.models)
app.command("create")(create.create)
app.command("runs")(runs.runs)
app.command("list", hidden=True)(runs.runs)
app.command("list-runs", hidden=True)(runs.runs)
app.command("label")(label.label)
app.command("sample")(sample.sample)
app.command("chat")(chat.chat)
app.command("save")(save.save)
app.command("checkpoints")(checkpoints.checkpoints)
app.command("delete")(delete.delete)
app.command("export")(export.export)
app.command("import")(import_adapter.import_adapter)
app.command("version")(version.version)


def main() -> None:
    """Run the command line and exit; the only place that turns our errors into a line on stderr."""
    make_output_safe()
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    completion.rejoin_words(os.environ)
    try:
        app(prog_name="eztinker")
    except BrokenPipeError:  # whoever read our output has seen enough; nothing may be written to it at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except EZTinkerError as error:
        fail(error.message)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def run_process() -> None:
    """`main`, and then the end of the process at once."""
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        end_process(code)
