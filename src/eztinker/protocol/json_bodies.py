"""JSON request bodies as typed records: nothing in a body is ignored without a word."""

from __future__ import annotations

import functools
import json
from typing import Any, TypeVar, dataclass_transform

import msgspec
import orjson

from eztinker.errors import InvalidInput, MalformedBody

BodyT = TypeVar("BodyT", bound="Body")

MAX_SHOWN_FIELDS = 5
MAX_SHOWN_CHARS = 100


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A JSON object whose fields are all known to us."""


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`; numbers beyond JSON, such as NaN, are refused by the parser.

    Raises:
        MalformedBody: not JSON, not an object, or with a name that stands twice in one object.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedBody(f"The request body must be JSON: {error}") from error
    json.loads(body, object_pairs_hook=_refuse_repeats)  # the fast parser takes the last of repeated names
    if not isinstance(value, dict):
        raise MalformedBody(f"The request body must be a JSON object, got {type(value).__name__}")
    return value


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise MalformedBody(f"The request body names {repeated[:MAX_SHOWN_CHARS]!r} more than once in one object")


def convert_object(value: dict[str, Any], body_type: type[BodyT]) -> BodyT:
    """`value` as a `body_type`.

    A top-level field we do not know is refused by name, unless it carries an off value (null, false, 0 or empty): newer
    clients send the defaults of features that we lack, and a feature that is off needs no support.

    Raises:
        InvalidInput: a field is unknown, missing or of the wrong type.
    """
    known = _field_names(body_type)
    unknown = [name[:MAX_SHOWN_CHARS] for name, content in value.items() if name not in known and content]
    if unknown:
        raise InvalidInput(f"Unknown fields in the request: {', '.join(sorted(unknown)[:MAX_SHOWN_FIELDS])}")
    try:
        return msgspec.convert({name: value[name] for name in value.keys() & known}, body_type)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"The request does not fit: {error}") from error


@functools.cache
def _field_names(body_type: type[Body]) -> frozenset[str]:
    return frozenset(field.encode_name for field in msgspec.structs.fields(body_type))


def decode_json(body: bytes, body_type: type[BodyT]) -> BodyT:
    """The request in `body`, checked field by field."""
    return convert_object(parse_object(body), body_type)
