from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from eztinker.cli.output import JsonFlag, print_json, print_table

if TYPE_CHECKING:
    from eztinker.settings.schema import Setting

_PAGE = """\
# Configuration

Written by `make docs` from the settings in the code; change the descriptions there.

## The server

A setting is looked up in this order, and the first place that names it wins:

1. the flag of `eztinker server`, for example `--max-batch-size 16`;
2. the environment variable, for example `EZTINKER_MAX_BATCH_SIZE=16`;
3. `eztinker.toml` in the current directory, then the one in the data directory, for example `max_batch_size = 16`;
4. the default.

An unknown name in `eztinker.toml`, or a value that cannot work, stops the start with the file, the line and the fix.
`eztinker settings` prints the values in force.

Below each name are the flag and the variable.

{server}

## Rejection sampling

`eztinker demo` and `rejection_sft_demo.py` take these flags, and `RejectionSFTConfig` in Python takes the names above
them. `eztinker demo` always has `checkpoint`.

{rejection_sft}
"""
_HEAD = "| setting | values | default | meaning |\n|---|---|---|---|\n"


def settings(
    as_json: JsonFlag = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page of the documentation.")] = False,
) -> None:
    """Show every setting of the server and the value in force here."""
    from eztinker.settings.schema import settings_of
    from eztinker.settings.server_config import ServerConfig, load_config

    if markdown:
        from eztinker.rl.config import RejectionSFTConfig

        sys.stdout.write(_PAGE.format(server=_table(ServerConfig), rejection_sft=_table(RejectionSFTConfig)))
        return
    values = load_config().model_dump(mode="json")
    if as_json:
        print_json(values)
        return
    described = settings_of(ServerConfig).values()
    rows = ((each.name, _shown(values[each.name]) or each.shown.default, each.help) for each in described)
    print_table(("setting", "value", "meaning"), rows)


def _table(schema: type) -> str:
    """Every setting of a schema as a row in Markdown."""
    from eztinker.settings.schema import settings_of

    return _HEAD + "\n".join(map(_row, settings_of(schema).values()))


def _row(setting: Setting) -> str:
    flags = ", ".join(f"`{flag}`" for flag in setting.flags)
    names = [f"`{setting.name}`", flags, f"`{setting.variable}`" if setting.variable else ""]
    default = setting.default if setting.shown.default or not setting.default else f"`{setting.default}`"
    return f"| {'<br>'.join(filter(None, names))} | {setting.values} | {default or ''} | {setting.help} |"


def _shown(value: object) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(str, value)) or None
    return None if value in (None, "") else str(value)
