"""The replay buffer: one JSON object per line, replaced as a whole, so that a reader never sees half of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eztinker.errors import DataDamaged, InvalidInput


def save_buffer(buffer_path: str | Path, data: Iterable[dict[str, Any]]) -> None:
    """Write `data` to `buffer_path`; the file before it stays whole until the new one is on disk."""
    path = Path(buffer_path)
    try:
        text = "".join(json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n" for entry in data)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"A buffer entry cannot be written as JSON: {error}") from error
    write_atomically(path, text)


def load_buffer(buffer_path: str | Path) -> list[dict[str, Any]]:
    """The entries of `buffer_path`, in order; none where there is no file.

    Raises:
        DataDamaged: a line is no JSON object; the message has its number.
    """
    path = Path(buffer_path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return []
    except UnicodeDecodeError as error:
        raise DataDamaged(f"{path} is not UTF-8 text; move it away to start a new buffer") from error
    return [_entry(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text`, making its directory if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _entry(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise DataDamaged(
            f"Line {number} of {path} is not JSON ({error}); repair or remove the line, or move the file away"
        ) from error
    if not isinstance(entry, dict):
        raise DataDamaged(f"Line {number} of {path} must be a JSON object, got {type(entry).__name__}")
    return entry
