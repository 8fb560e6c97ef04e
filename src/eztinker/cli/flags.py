"""Commands with a flag for every setting of a schema."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cached_property
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.main
from typer.core import TyperCommand

if TYPE_CHECKING:
    from eztinker.settings.schema import Setting


def add_command(
    app: typer.Typer,
    name: str,
    command: Callable[..., None],
    schema: Callable[[], type],
    *,
    without: tuple[str, ...] = (),
) -> None:
    """Give `app` a command with a flag for every setting of a schema.

    `command` takes the settings that were given, by name. What else it takes are options of its own; one that is called
    like a setting replaces the setting's flag.

    Args:
        schema: imports the schema. It is called when the command is run or explained: the list of all commands is there
            without the packages that a schema needs.
        without: settings that have no flag here.
    """

    class Deferred(TyperCommand):
        """Stands in the list of commands, and makes the command itself when its options are asked for."""

        @cached_property
        def whole(self) -> TyperCommand:
            alone = typer.Typer(add_completion=False)
            alone.command(name)(_with_flags(command, schema(), without))
            return typer.main.get_command(alone)  # pyright: ignore[reportReturnType]

        @property
        def params(self) -> Any:
            return self.whole.params

        @params.setter
        def params(self, _: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
            """Leave out what Typer finds in a function that takes nothing."""

        def invoke(self, ctx: Any) -> Any:
            return self.whole.invoke(ctx)

    app.command(name, cls=Deferred, help=inspect.getdoc(command))(lambda: None)


def _with_flags(command: Callable[..., None], schema: type, without: tuple[str, ...]) -> Callable[..., None]:
    """`command` with the signature that Typer reads the options from."""
    from eztinker.settings.schema import settings_of

    _, *own = inspect.signature(command, eval_str=True).parameters.values()
    options = {name: each for name, each in settings_of(schema).items() if each.flags and name not in without}
    parameters = {name: _parameter(setting) for name, setting in options.items()}
    parameters |= {each.name: each.replace(kind=Parameter.KEYWORD_ONLY) for each in own}

    def run(**values: Any) -> None:
        given = {name: values.pop(name) for name in options.keys() - {each.name for each in own}}
        settings = {name: _value(options[name], value) for name, value in given.items() if value not in (None, [])}
        command(settings, **values)

    run.__signature__ = inspect.Signature(list(parameters.values()))  # pyright: ignore[reportFunctionMemberAccess]
    return run


def _parameter(setting: Setting) -> Parameter:
    """An option that is None where it was not given."""
    taken: Any = list[setting.kind] if setting.is_list else setting.kind
    option = typer.Option(
        *setting.flags,
        help=setting.short_help + " Repeatable." * setting.is_list,
        metavar=setting.shown.metavar or "|".join(setting.choices) or None,
        show_default=(setting.kind is not bool and setting.default) or False,
        readable=setting.kind is not Path,  # whoever opens it has the better sentence
    )
    annotation = Annotated[taken | None, option]
    return Parameter(setting.name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _value(setting: Setting, given: Any) -> Any:
    return not given if setting.is_negative else given
