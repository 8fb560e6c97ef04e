"""Output of commands: tables for people, JSON for programs, failures as one line on stderr."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any

import typer

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

WIDTH_OF_A_PIPE = 240
"""Width of a table that another program reads, in which no path is broken."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain(text: object) -> str:
    """Replace control characters: text of a model or another client may contain terminal escapes."""
    return _CONTROL.sub("�", str(text))


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print `rows` under `columns`; a cell that is None shows as a dash."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*(Text("-" if cell is None else plain(cell), overflow="fold") for cell in row))
    Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_PIPE).print(table)


def fail(message: str) -> None:
    """Print an expected failure as one line on stderr."""
    sys.stderr.write(f"Error: {plain(' '.join(message.split()))}\n")


def when(moment: str | None) -> str | None:
    """Format an ISO 8601 time as local time, to the minute."""
    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M") if moment else None


def age(moment: str, now: datetime) -> str:
    """Format the time from an ISO 8601 time to `now` in its largest unit: `3 h`."""
    seconds = max(0.0, (now - datetime.fromisoformat(moment)).total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def size(num_bytes: int | None) -> str | None:
    """Format a size in decimal units: 4600000 -> '4.6 MB'."""
    if num_bytes is None:
        return None
    amount = float(num_bytes)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} GB"
