"""JSON bodies to break: every place in one, other values there, and text that no encoder would write."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

Place = tuple[str | int, ...]
"""The names and numbers that lead to it."""
_DEEP = re.compile(r'"<(objects|lists) (\d+)>"')


def places_in(value: Any) -> Iterator[Place]:
    """Every place within a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, content in items:
        yield (key,)
        yield from ((key, *place) for place in places_in(content))


def holder_of(value: Any, place: Place) -> Any:
    """The object or list that a place is in."""
    for key in place[:-1]:
        value = value[key]
    return value


def with_place(value: Any, place: Place, content: Any) -> Any:
    """`value` with something else in a place; a place of no steps is all of it."""
    if not place:
        return content
    changed = copy.deepcopy(value)
    holder_of(changed, place)[place[-1]] = content
    return changed


def nested(depth: int, *, in_lists: bool = False) -> str:
    """What `encode` writes as objects or lists so deep, which Python's own encoder could not."""
    return f"<{'lists' if in_lists else 'objects'} {depth}>"


def encode(value: Any) -> bytes:
    """JSON with numbers that are none, half surrogates and any depth."""
    return _DEEP.sub(_brackets, json.dumps(value)).encode()


def _brackets(match: re.Match[str]) -> str:
    opening, closing = ('{"a":', "}") if match[1] == "objects" else ("[", "]")
    depth = int(match[2])
    return opening * depth + "1" + closing * depth
