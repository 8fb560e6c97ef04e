"""Schemas: settings that are written once, as the typed fields of a class, with their bounds and what they mean.

Flags, variables, files, checks and pages of the documentation are made from what `settings_of` reads in such a class.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, SecretStr, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from eztinker.errors import InvalidInput

_OUT_OF_BOUNDS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "literal_error"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """Presentation of a setting, where it does not follow from its field; stands in the field's annotation."""

    flags: tuple[str, ...] = ()
    """Names of its flag; the first is the one to use."""
    metavar: str | None = None
    """Stands for a value in the help of its flag."""
    default: str | None = None
    """Names a default that is worked out when the program runs."""
    bounds: str | None = None
    """Bounds in words, where they have a reason to tell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One field of a schema."""

    name: str
    field: FieldInfo
    shown: Shown
    kind: type
    """Type of a value; of one of them, for a list."""
    is_list: bool
    choices: tuple[str, ...]
    """Empty where any value of `kind` within bounds will do."""
    variable: str | None
    """Name in the environment; None for a schema that is not read from there."""

    @property
    def is_secret(self) -> bool:
        """True for a key: it stays out of files, and of command lines, which other users can list."""
        return self.kind is SecretStr

    @property
    def is_negative(self) -> bool:
        """True for a setting that is on by default, so that its flag turns it off."""
        return self.field.default is True

    @property
    def flags(self) -> tuple[str, ...]:
        if self.is_secret:
            return ()
        return self.shown.flags or (f"--{'no-' * self.is_negative}{self.name.replace('_', '-')}",)

    @property
    def help(self) -> str:
        return self.field.description or ""

    @property
    def short_help(self) -> str:
        """The first sentence of the help."""
        return self.help.partition(". ")[0].removesuffix(".") + "."

    @property
    def default(self) -> str | None:
        """The default in words; None where nothing can be said of it."""
        if self.shown.default is not None or self.field.default_factory is not None:
            return self.shown.default
        value = self.field.default
        if isinstance(value, bool):
            return str(value).lower()
        return None if value in (None, "") else f"{value:g}" if isinstance(value, float) else str(value)

    @property
    def values(self) -> str:
        """Values that it takes, in words."""
        if self.choices:
            return ", ".join(f"`{choice}`" for choice in self.choices)
        number = "seconds" if self.name.endswith("_seconds") else "number"
        words = {bool: "`true`, `false`", int: number, float: number, Path: "directory"}
        word = ("list of " if self.is_list else "") + words.get(self.kind, "text")
        return f"{word}, {self.bounds}" if self.bounds else word

    @property
    def bounds(self) -> str:
        """Bounds of a number in words: `at least 1`; empty where there are none."""
        if self.shown.bounds is not None:
            return self.shown.bounds
        limits = self._limits()
        if "gt" in limits and "lt" in limits:
            return f"between {limits['gt']} and {limits['lt']}"
        if "ge" in limits and "le" in limits:
            return f"from {limits['ge']} to {limits['le']}"
        if limits.get("ge") == 0:
            return "0 or more"
        words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
        return " and ".join(f"{words[limit]} {value}" for limit, value in limits.items())

    def checked(self, value: object) -> Any:
        """Validate `value`, and return it as the setting holds it.

        Raises:
            ValidationError: it cannot be that.
        """
        declared: Any = Annotated[self.field.annotation, self.field]
        return TypeAdapter(declared).validate_python(value)

    def _limits(self) -> dict[str, Any]:
        names = ("ge", "gt", "le", "lt")
        return {name: getattr(each, name) for each in self.field.metadata for name in names if hasattr(each, name)}


@cache
def settings_of(schema: type) -> dict[str, Setting]:
    """Settings of a pydantic model or of a dataclass, by name and in their order there."""
    prefix = getattr(schema, "model_config", {}).get("env_prefix")
    return {name: _setting(name, field, prefix) for name, field in _fields_of(schema).items()}


def check_dataclass(settings: Any) -> None:
    """Hold an instance of a frozen dataclass to its schema, and keep its values as their types say: a path as a path.

    Raises:
        InvalidInput: a value cannot be what it is; the message says what it must be.
    """
    for name, setting in settings_of(type(settings)).items():
        value = getattr(settings, name)
        try:
            object.__setattr__(settings, name, setting.checked(value))
        except ValidationError as error:
            raise InvalidInput(_demand(setting, value, error), field=name) from error


def complaint(name: str, error: ValidationError) -> str:
    """The first complaint of pydantic about the setting `name`, as a sentence."""
    first = error.errors()[0]
    return f"{first['msg'].replace('Input', name)}, got {first['input']!r}"


def _demand(setting: Setting, value: object, error: ValidationError) -> str:
    if error.errors()[0]["type"] not in _OUT_OF_BOUNDS:
        return complaint(setting.name, error)
    *others, last = setting.choices or ("",)
    expected = f"{', '.join(others)} or {last}" if setting.choices else setting.bounds
    return f"{setting.name} must be {expected}, got {value!r}"


def _fields_of(schema: type) -> dict[str, FieldInfo]:
    if issubclass(schema, BaseModel):
        return schema.model_fields
    types = get_type_hints(schema, include_extras=True)
    return {
        field.name: FieldInfo.from_annotated_attribute(types[field.name], field.default)
        for field in dataclasses.fields(schema)
    }


def _setting(name: str, field: FieldInfo, prefix: str | None) -> Setting:
    kind: Any = field.annotation
    if get_origin(kind) in (Union, UnionType):
        kind = next(each for each in get_args(kind) if each is not NoneType)
    is_list = get_origin(kind) is list
    kind = get_args(kind)[0] if is_list else kind
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    return Setting(
        name=name,
        field=field,
        shown=next((each for each in field.metadata if isinstance(each, Shown)), Shown()),
        kind=str if choices else kind,
        is_list=is_list,
        choices=choices,
        variable=None if prefix is None else prefix + name.upper(),
    )
