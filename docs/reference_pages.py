"""Reference pages of the site, written from the code: the command line, the HTTP API and its OpenAPI description.

Markdown comes out, which `conf.py` puts where a page says so.
"""

from __future__ import annotations

import inspect
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from types import CodeType
from typing import Any

import msgspec
import typer.main
from fastapi import Depends
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

import eztinker
from eztinker import errors
from eztinker.api.app import create_app
from eztinker.api.auth import authenticated
from eztinker.base_models.catalog import Catalog
from eztinker.cli.app import app as command_line
from eztinker.protocol.json_bodies import Body
from eztinker.settings.server_config import ServerConfig

_ENDS_SENTENCE = (".", "!", "?")


def cli_page() -> str:
    """Every command that is not hidden, with its arguments and options."""
    group = typer.main.get_command(command_line)
    return "\n".join(_commands(group, "eztinker"))


def http_page() -> str:
    """Every route, in the order of the table of routes, with its parameters and the fields of its body."""
    described = openapi()["paths"]
    parts: list[str] = []
    for module, routes in groupby(_routes(), key=lambda route: inspect.getmodule(route.endpoint)):
        assert module is not None
        parts += [f"## {_heading(module.__name__)}", "", _paragraphs(module.__doc__), ""]
        for route in routes:
            parts += _route(route, described[route.path_format])
    return "\n".join(parts)


def errors_page() -> str:
    """The tree of errors, as the head of their module draws it."""
    parts = (inspect.getdoc(errors) or "").split("\n\n")
    return "\n\n".join(f"```text\n{inspect.cleandoc(part)}\n```" if part.startswith(" ") else part for part in parts)


def openapi() -> dict[str, Any]:
    """FastAPI's description of the server."""
    return get_openapi(title="EZTinker", version=eztinker.__version__, routes=_routes())


def _routes() -> list[APIRoute]:
    with tempfile.TemporaryDirectory() as data_dir:
        app = create_app(ServerConfig.model_validate({"data_dir": data_dir}), Catalog([]))
    return [route for route in app.routes if isinstance(route, APIRoute)]


def _commands(command: Any, name: str) -> Iterator[str]:
    subcommands = {key: each for key, each in getattr(command, "commands", {}).items() if not each.hidden}
    if name.count(" ") == 0:
        for key, each in subcommands.items():
            yield from _commands(each, f"{name} {key}")
        return
    yield from [f"{'#' * (name.count(' ') + 1)} {name}", "", "```text", _usage(command, name), "```", ""]
    yield from [_help(command.help), ""]
    rows = [_parameter(each) for each in command.params if not getattr(each, "hidden", False)]
    if rows:
        yield from [_table(("name", "meaning", "default"), rows), ""]
    for key, each in subcommands.items():
        yield from _commands(each, f"{name} {key}")


def _usage(command: Any, name: str) -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    return " ".join([name, *command.collect_usage_pieces(context)])


def _help(text: str | None) -> str:
    """The text of `--help`, with its example as code."""
    sentences, _, example = (text or "").partition("Example: ")
    return _paragraphs(sentences) + (f"\n\n```sh\n{example.strip()}\n```" if example else "")


def _parameter(parameter: Any) -> tuple[str, str, str]:
    if parameter.param_type_name == "argument":
        shown = f"`{parameter.metavar or parameter.name.upper()}`"
    else:
        value = f" {parameter.metavar}" if parameter.metavar else ""
        shown = ", ".join(f"`{name}{value}`" for name in [*parameter.opts, *parameter.secondary_opts])
    meaning = _escaped(getattr(parameter, "help", None) or "")
    if isinstance(parameter.show_default, str):
        return shown, meaning, _escaped(parameter.show_default)
    has_default = parameter.default not in (None, False) and not callable(parameter.default)
    return shown, meaning, f"`{parameter.default}`" if has_default else ""


def _route(route: APIRoute, described: dict[str, Any]) -> Iterator[str]:
    for method in sorted(route.methods or ()):
        operation = described[method.lower()]
        yield from [f"### {method} {route.path}", ""]
        yield from [_paragraphs(operation.get("description") or f"{operation['summary'].capitalize()}."), ""]
        if Depends(authenticated) not in route.dependencies:
            yield from ["Asks for no key.", ""]
        rows = [_query_or_path(each) for each in operation.get("parameters", [])]
        if rows:
            yield from [_table(("parameter", "in", "type", "default"), rows), ""]
        bodies = _bodies(route)
        _, records = msgspec.json.schema_components(bodies, ref_template="#/{name}")
        for name in dict.fromkeys([*(body.__name__ for body in bodies), *records]):  # what a body holds comes after it
            schema = records[name]
            required = schema.get("required", ())
            fields = [_field(key, each, key in required) for key, each in schema["properties"].items()]
            yield from [f"Fields of `{name}`:", "", _table(("field", "type", "default"), fields), ""]


def _query_or_path(parameter: dict[str, Any]) -> tuple[str, str, str, str]:
    schema = parameter["schema"]
    default = f"`{schema['default']}`" if "default" in schema else ("" if parameter["required"] else "none")
    return f"`{parameter['name']}`", parameter["in"], _type_of(schema), default


def _type_of(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if options := schema.get("anyOf"):
        return " or ".join(_type_of(each) for each in options)
    if "const" in schema:
        return f"`{schema['const']}`"
    if values := schema.get("enum"):
        return " or ".join(f"`{value}`" for value in values)
    if reference := schema.get("$ref"):
        return f"`{reference.rpartition('/')[2]}`"
    if schema.get("type") == "array":
        return f"array of {_type_of(schema.get('items') or {})}"
    return schema.get("type", "any")


def _field(name: str, schema: dict[str, Any], is_required: bool) -> tuple[str, str, str]:
    default = schema.get("default")
    if is_required:
        shown = "required"
    else:  # a record's default repeats what the table of that record says
        shown = "" if "default" not in schema or isinstance(default, dict) else f"`{json.dumps(default)}`"
    return f"`{name}`", _type_of(schema), shown


def _bodies(route: APIRoute) -> list[type[Body]]:
    """The records that the handler of a route reads bodies into."""
    names = dict.fromkeys(_names_in(route.endpoint.__code__))
    found = (route.endpoint.__globals__.get(name) for name in names)
    return [each for each in found if isinstance(each, type) and issubclass(each, Body)]


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def _heading(module: str) -> str:
    return module.rpartition(".")[2].replace("_", " ").capitalize()


def _paragraphs(text: str | None) -> str:
    """A docstring as Markdown; `Args:` and what follows is for readers of the code."""
    body = re.split(r"^(?:Args|Raises|Returns):", inspect.cleandoc(text or ""), flags=re.MULTILINE)[0].strip()
    return _escaped(body if body.endswith(_ENDS_SENTENCE) or not body else f"{body}.")


def _escaped(text: str) -> str:
    """Characters that Markdown or HTML would take for its own, outside of code."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(each if each.startswith("`") else re.sub(r"([<>*_\[\]{}$|])", r"\\\1", each) for each in pieces)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
