"""Command lines of scripts: the settings of a schema as arguments of `argparse`."""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
from typing import Any

from eztinker.settings.schema import Setting, settings_of


def given_settings(schema: type, description: str | None) -> dict[str, Any]:
    """The settings on the command line of this program, by name; those that are not there are left out.

    Ends the program with help where that is asked for, and with a line on stderr where an argument is wrong.

    Args:
        description: what the program does, printed as it stands.
    """
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    for setting in settings_of(schema).values():
        _add(parser, setting)
    return vars(parser.parse_args())


def _add(parser: ArgumentParser, setting: Setting) -> None:
    if setting.kind is bool:
        taking: dict[str, Any] = {"action": "store_false" if setting.is_negative else "store_true"}
    else:
        taking = {"type": setting.kind, "choices": setting.choices or None, "metavar": setting.shown.metavar}
    shows_default = setting.default is not None and setting.kind is not bool
    text = f"{setting.short_help} (default: {setting.default})" if shows_default else setting.short_help
    parser.add_argument(*setting.flags, dest=setting.name, default=SUPPRESS, help=text.replace("%", "%%"), **taking)
