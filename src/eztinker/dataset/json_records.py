"""Reads the records of a data file, JSON Lines or one JSON array, and reports errors with their place in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eztinker.errors import DataDamaged, DataNotFound

MAX_RECORD_CHARS = 32 * 2**20
"""Longest record; a longer one is no conversation or word problem, but a file whose line ends were lost."""
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"PAR1": "Parquet",
}
_WIDE_ENCODINGS = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class JsonRecord:
    place: str
    """Place in the file, for error messages: "Line 3", or "Item 3 (line 7)" of a JSON array."""
    value: Any
    """Decoded value; None if it is invalid."""
    fault: str | None = None
    """Reason why the record is invalid, as the end of a sentence; None if it is valid."""


def read_records(path: Path) -> list[JsonRecord]:
    """Records of a UTF-8 file, with or without a byte-order mark; its first character tells an array from lines.

    Raises:
        DataNotFound: there is no such file, or it cannot be opened.
        DataDamaged: the file is no UTF-8 text, has no record, or is a truncated JSON array.
    """
    text = _text_of(path)
    if not text.strip():
        raise DataDamaged(f"{path} is empty; expected JSON Lines, one object per line, or a JSON array of objects")
    if text.lstrip().startswith("["):
        return list(_array_items(path, text))
    # Not splitlines: JSON strings may hold line separators such as U+2028.
    lines = enumerate(text.split("\n"), start=1)
    return [_record(f"Line {number}", line) for number, line in lines if line.strip()]


def _text_of(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataNotFound(f"{path} cannot be read: {error.strerror}") from error
    for start, name in _COMPRESSED.items():
        if content.startswith(start):
            raise DataDamaged(f"{path} is a {name} file; unpack it, and give the JSON or JSON Lines file in it")
    for start, name in _WIDE_ENCODINGS.items():
        if content.startswith(start):
            raise DataDamaged(f"Line 1 of {path} is not UTF-8 text but {name}; {_convert_from(name)}")
    if (zero := content.find(0)) >= 0:
        raise DataDamaged(
            f"Line {_line_at(content, zero)} of {path} holds a NUL byte, so it is not UTF-8 text; "
            f"if it is UTF-16, {_convert_from('UTF-16')}"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataDamaged(
            f"Line {_line_at(content, error.start)} of {path} is not UTF-8 text "
            f"(byte 0x{content[error.start]:02x}); if it is Latin-1, {_convert_from('LATIN1')}"
        ) from error


def _convert_from(encoding: str) -> str:
    return f"convert it, for example with `iconv -f {encoding} -t UTF-8`"


def _line_at(content: bytes, position: int) -> int:
    return content.count(b"\n", 0, position) + 1


def _record(place: str, text: str) -> JsonRecord:
    if len(text) > MAX_RECORD_CHARS:
        return JsonRecord(place, None, _too_long(text))
    decoder = _Decoder()
    try:
        return decoder.record(place, decoder.decode(text), text)
    except (ValueError, RecursionError) as error:
        return JsonRecord(place, None, _fault_of(error))


def _array_items(path: Path, text: str) -> Iterator[JsonRecord]:
    """Items of a JSON array. Invalid JSON ends the reading, because the next item cannot be found."""
    position = _next_char(text, text.index("[") + 1)
    number, line, counted = 0, 1, 0
    while not text.startswith("]", position):
        number += 1
        line, counted = line + text.count("\n", counted, position), position
        place = f"Item {number} (line {line})"
        decoder = _Decoder()
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise DataDamaged(f"{place} of the JSON array in {path}: {_fault_of(error)}") from error
        yield decoder.record(place, value, text[position:end])
        position = _next_char(text, end)
        if text.startswith(",", position):
            position = _next_char(text, position + 1)
        elif not text.startswith("]", position):
            raise DataDamaged(f"The JSON array in {path} breaks off after item {number} (line {line})")
    if number == 0 or text[position + 1 :].strip():
        reason = "is an empty JSON array" if number == 0 else f"goes on after its JSON array of {number} items"
        raise DataDamaged(f"{path} {reason}; expected JSON Lines, one object per line, or one JSON array of objects")


class _Decoder(json.JSONDecoder):
    """Decodes one record, and finds faults that Python's decoder accepts: repeated keys, NaN, lone surrogates."""

    def __init__(self) -> None:
        self._fault: str | None = None
        super().__init__(object_pairs_hook=self._object, parse_constant=self._constant)

    def record(self, place: str, value: Any, text: str) -> JsonRecord:
        if len(text) > MAX_RECORD_CHARS:
            self._fault = _too_long(text)
        elif not isinstance(value, dict):
            self._fault = f"expected a JSON object, got {_kind_of(value)}"
        elif _ESCAPED_SURROGATE.search(text) and _has_lone_surrogate(value):
            self._fault = (
                "it has half a surrogate pair (\\ud800 to \\udfff), which is no character; remove or repair it"
            )
        return JsonRecord(place, None if self._fault else value, self._fault)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in members if keys.count(key) > 1)
            self._fault = f"the key {twice!r} stands twice in one object, so one of its values would be lost"
        return members

    def _constant(self, name: str) -> None:
        self._fault = f"{name} is no JSON number"


_SPACE = re.compile(r"[ \t\r\n]*")


def _next_char(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _too_long(text: str) -> str:
    return f"it has {len(text)} characters; a record has at most {MAX_RECORD_CHARS}"


def _fault_of(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "its JSON is nested too deep"
    if isinstance(error, json.JSONDecodeError):
        return f"expected a JSON object, but this is not JSON ({error.msg} at character {error.pos + 1})"
    return f"expected a JSON object, but this cannot be read ({error})"


def _kind_of(value: Any) -> str:
    return {list: "a list", str: "a string", bool: "a truth value", type(None): "null"}.get(type(value), "a number")


def _has_lone_surrogate(value: Any) -> bool:
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            if any("\ud800" <= char <= "\udfff" for char in each):
                return True
        elif isinstance(each, dict):
            waiting += [*each, *each.values()]
        elif isinstance(each, list):
            waiting += each
    return False
