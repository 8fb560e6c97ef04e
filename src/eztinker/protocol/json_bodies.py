"""JSON request bodies as typed records; nothing in a body is silently ignored."""

from __future__ import annotations

import json
from typing import Any, TypeVar, dataclass_transform

import msgspec
import orjson

from eztinker.errors import InvalidInput, MalformedBody, TooLarge

BodyT = TypeVar("BodyT", bound="Body")

MAX_SHOWN_FIELDS = 5
MAX_SHOWN_CHARS = 100
MAX_DEPTH = 32
"""Deepest nesting of objects and lists in a body, metadata included; a training batch has 8."""
MAX_CONTAINERS = 1 << 17
"""Most objects and lists in one body. Empty ones take 56 bytes of memory for 2 of text."""
MAX_STRINGS = 1 << 18
"""Most names and strings in one body; a batch of 1,024 data has 30,000."""
MAX_VALUES = 1 << 21
"""Most values in one body, usually numbers. The official client puts up to 1,250,000 tokens into one batch."""
MAX_NAMED_BYTES = 1 << 20
"""Size up to which a body that repeats a name is parsed again, to say which."""
_NUMBERS = {int, float, bool, type(None)}
_ESCAPED_COLONS = (rb"\u003a", rb"\u003A")


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A JSON object with known fields only."""


def parse_object(body: bytes | bytearray) -> dict[str, Any]:
    """The JSON object in `body`; numbers beyond JSON, such as NaN, are refused by the parser.

    Raises:
        MalformedBody: `body` is not JSON or no object, is nested too deeply, or repeats a name in one object.
        TooLarge: it has too many objects, lists, strings or values.
    """
    _check_parts(body)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedBody(f"The request body must be JSON: {error}") from error
    num_colons = _count_colons(value)
    if body.count(b":") != num_colons or any(escaped in body for escaped in _ESCAPED_COLONS):
        _refuse_repeats(body)
    if not isinstance(value, dict):
        raise MalformedBody(f"The request body must be a JSON object, got {type(value).__name__}")
    return value


def _check_parts(body: bytes | bytearray) -> None:
    """Require that a body has few enough parts, counted by their delimiters before it is parsed.

    Raises:
        TooLarge: it has too many.
    """
    for num_parts, most, what in (
        (body.count(b"{") + body.count(b"["), MAX_CONTAINERS, "objects and lists"),
        (body.count(b'"') // 2, MAX_STRINGS, "names and strings"),
        (body.count(b","), MAX_VALUES, "values"),
    ):
        if num_parts > most:
            raise TooLarge(f"The request body may hold {most} {what}; send it in parts")


def _count_colons(value: Any) -> int:
    """Number of colons in the JSON text of `value`: one after each name, and those within names and strings.

    A text with more has repeated a name, of which the parser keeps the last. Counting is some ten times faster than
    parsing again in a way that shows every name, and never blocks other threads for long.

    Raises:
        MalformedBody: `value` is nested too deeply.
    """
    num_colons = 0
    depth, level = 0, [value]
    while level:
        deeper: list[Any] = []
        for part in level:
            if isinstance(part, str):
                num_colons += part.count(":")
            elif isinstance(part, (dict, list)) and depth == MAX_DEPTH:
                raise MalformedBody(f"Objects and lists in the request body may be nested {MAX_DEPTH} deep")
            elif isinstance(part, dict):
                num_colons += len(part) + sum(name.count(":") for name in part)
                deeper += part.values()
            elif isinstance(part, list) and not _NUMBERS.issuperset(map(type, part)):
                deeper += [each for each in part if type(each) not in _NUMBERS]
        depth, level = depth + 1, deeper
    return num_colons


def _refuse_repeats(body: bytes | bytearray) -> None:
    """Refuse a body that repeats a name in one object."""
    if len(body) > MAX_NAMED_BYTES:
        raise MalformedBody("The request body names something twice in one object, or writes a colon as \\u003a")
    json.loads(body, object_pairs_hook=_refuse_repeat)


def _refuse_repeat(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise MalformedBody(f"The request body names {name[:MAX_SHOWN_CHARS]!r} more than once in one object")
        seen.add(name)


def convert_object(value: dict[str, Any], body_type: type[BodyT]) -> BodyT:
    """Validate `value` as a `body_type`.

    An unknown top-level field is refused by name, unless it carries an off value (null, false, 0 or empty): newer
    clients send the defaults of features that we lack, and a feature that is off needs no support.

    Raises:
        InvalidInput: a field is unknown, missing or of the wrong type.
    """
    known = set(body_type.__struct_encode_fields__)
    unknown = [name[:MAX_SHOWN_CHARS] for name, content in value.items() if name not in known and content]
    if unknown:
        raise InvalidInput(f"Unknown fields in the request: {', '.join(sorted(unknown)[:MAX_SHOWN_FIELDS])}")
    try:
        return msgspec.convert({name: value[name] for name in value.keys() & known}, body_type)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"The request does not fit: {error}") from error


def decode_json(body: bytes | bytearray, body_type: type[BodyT]) -> BodyT:
    """Parse `body` and validate it as a `body_type`."""
    return convert_object(parse_object(body), body_type)
