from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eztinker.cli.output import JsonFlag, print_json, print_table

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_INTRODUCTION = """\
# Configuration

Written by `make docs` from the settings of `eztinker server`; change the descriptions there.

A setting is looked up in this order, and the first place that names it wins:

1. the flag of `eztinker server`, for example `--max-batch-size 16`;
2. the environment variable, for example `EZTINKER_MAX_BATCH_SIZE=16`;
3. `eztinker.toml` in the current directory, then the one in the data directory, for example `max_batch_size = 16`;
4. the default.

An unknown name in `eztinker.toml`, or a value that cannot work, stops the start with the file, the line and the fix.
`eztinker settings` prints the values in force.

| setting | values | default | meaning |
|---|---|---|---|
"""


def settings(
    as_json: JsonFlag = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page of the documentation.")] = False,
) -> None:
    """Show every setting of the server and the value in force here."""
    from eztinker.settings.server_config import ServerConfig, load_config

    if markdown:
        print(_INTRODUCTION + "\n".join(_reference_rows(ServerConfig.model_fields)))
        return
    values = load_config().model_dump(mode="json")
    if as_json:
        print_json(values)
        return
    print_table(
        ("setting", "value", "meaning"),
        ((name, _shown(values[name]), field.description) for name, field in ServerConfig.model_fields.items()),
    )


def _reference_rows(fields: dict[str, FieldInfo]) -> Iterator[str]:
    for name, field in fields.items():
        default = "" if field.default_factory else _shown(field.default) or ""
        yield f"| `{name}` | {_values(field.annotation)} | {f'`{default}`' if default else ''} | {field.description} |"


def _values(annotation: Any) -> str:
    """The kind of value in words, or the choices."""
    from typing import Literal, get_args, get_origin

    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    words = {"str": "text", "SecretStr": "text", "int": "number", "float": "seconds", "bool": "`true`, `false`"}
    kinds = [kind for kind in (get_args(annotation) or (annotation,)) if kind is not type(None)]
    word = words.get(kinds[0].__name__, "directory")
    return f"list of {word}" if get_origin(annotation) is list else word


def _shown(value: object) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(str, value)) or None
    return None if value in (None, "") else str(value)
