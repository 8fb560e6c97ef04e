"""Typed access to the JSON files in a model's folder, with a sentence for every value that is invalid."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eztinker.errors import DataDamaged, DataNotFound

MAX_FILE_BYTES = 200_000_000
"""Largest JSON file to read: several times the largest published tokenizer or index."""
MAX_SIZE = 2**31 - 1
MAX_SHOWN_CHARS = 100
"""Characters of an invalid value that an error message quotes."""


class JsonFields:
    """A JSON object with typed getters, which raise DataDamaged for values of another type or out of range."""

    def __init__(self, values: Mapping[str, Any], *, where: str) -> None:
        """Wrap a JSON object.

        Args:
            where: name of the object in error messages, such as "config.json of base model 'x'".
        """
        self._values = values
        self._where = where

    def __contains__(self, key: str) -> bool:
        return key in self._values

    @property
    def names(self) -> Sequence[str]:
        return list(self._values)

    def raw(self, key: str) -> Any:
        """The value as it is in the file; None if it is absent."""
        return self._values.get(key)

    def integer(self, key: str, default: int, *, low: int = 1, high: int = MAX_SIZE) -> int:
        value = self._values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._wrong(key, value, f"an integer from {low} to {high}")
        return value

    def optional_integer(self, key: str, default: int | None, *, low: int = 1, high: int = MAX_SIZE) -> int | None:
        """Like `integer`, but null is allowed."""
        if self._values.get(key, default) is None:
            return None
        return self.integer(key, 0 if default is None else default, low=low, high=high)

    def number(
        self, key: str, default: float | None = None, *, above: float = -math.inf, at_least: float = -math.inf
    ) -> float:
        """A finite number in a range; without a default it must be present."""
        value = self._values.get(key, default)
        if not _is_finite(value) or not value > above or not value >= at_least:
            bounds = [f"above {above:g}"] if above > -math.inf else []
            bounds += [f"of at least {at_least:g}"] if at_least > -math.inf else []
            raise self._wrong(key, value, " ".join(["a number", *bounds]))
        return float(value)

    def optional_number(self, key: str, *, above: float = -math.inf, at_least: float = -math.inf) -> float | None:
        """Like `number`, but None if it is absent or null."""
        return None if self._values.get(key) is None else self.number(key, above=above, at_least=at_least)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self._values.get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def text(self, key: str, default: str) -> str:
        value = self._values.get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, value, "text")
        return value

    def texts(self, key: str, *, length: int) -> list[str] | None:
        """A list of `length` strings; None if it is absent or null."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != length or not all(isinstance(each, str) for each in value):
            raise self._wrong(key, value, f"a list of {length} texts")
        return value

    def object(self, key: str) -> JsonFields | None:
        """A nested object; None if it is absent or null."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._wrong(key, value, "an object")
        return JsonFields(value, where=f"{key} in {self._where}")

    def _wrong(self, key: str, value: Any, expected: str) -> DataDamaged:
        shown = repr(value)[:MAX_SHOWN_CHARS] if key in self._values else "none"
        return DataDamaged(
            f"{self._where} must give {key} as {expected}, got {shown}; fetch the file again or correct it"
        )


def read_json(path: Path, *, name: str) -> dict[str, Any]:
    """The object in the file `path` of base model `name`.

    Raises:
        DataNotFound: there is no such file.
        DataDamaged: the file is too large, or holds no JSON object.
    """
    if not path.is_file():  # opening a pipe would wait for ever
        raise DataNotFound(
            f"The folder of base model {name!r} has no {path.name}; expected a model in the Hugging Face layout"
        )
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"it has more than {MAX_FILE_BYTES} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataDamaged(f"{path.name} of base model {name!r} cannot be read ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise DataDamaged(f"{path.name} of base model {name!r} must hold a JSON object; fetch it again")
    return content


def _is_finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond any float
        return False
