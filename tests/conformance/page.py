"""The page docs/conformance.md, made of the checklist, its tests and what became of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from tests.conformance.checklist import CHECKLIST, ITEMS, ITEMS_REFUSED, REFUSED
from tests.conformance.marks import ROOT, Point

PAGE = ROOT / "docs" / "conformance.md"
SHOWN, NOT_SHOWN, REFUSED_BY_NAME = "shown", "**not shown**", "refused by name"

_HEAD = """# Conformance

**{num_held} of {num_items} points hold** of what the official SDK expects of a server of the Tinker API. The tests that
show a point drive the unmodified SDK, raw HTTP where the SDK cannot, or the part itself beside an independent source;
each name is a link to its file. `make conformance` runs them all and writes this page.
"""


def points_held(tests: Mapping[Point, Sequence[str]], passed: Collection[str]) -> set[Point]:
    """The points that have tests all of which have passed."""
    return {point for point, names in tests.items() if names and all(name in passed for name in names)}


def conformance_page(tests: Mapping[Point, Sequence[str]], passed: Collection[str]) -> str:
    """The page when exactly the tests `passed` have."""
    held = points_held(tests, passed)
    parts = [_HEAD.format(num_items=len(ITEMS), num_held=len(held & ITEMS.keys()))]
    for title, items in CHECKLIST.items():
        rows = [
            (number, text, _status(number in held, is_refusal=number in ITEMS_REFUSED), _links(tests.get(number, ())))
            for number, text in items.items()
        ]
        parts.append(_table(title, ("", "what holds", "", "tests"), rows))
    rows = [
        (text, _status(name in held, is_refusal=True), _links(tests.get(name, ()))) for name, text in REFUSED.items()
    ]
    parts.append(_table("Not here", ("what a request may name", "", "tests"), rows))
    return "\n".join(parts)


def _status(is_held: bool, *, is_refusal: bool) -> str:
    if not is_held:
        return NOT_SHOWN
    return REFUSED_BY_NAME if is_refusal else SHOWN


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return f"## {title}\n\n" + "".join(f"| {' | '.join(map(str, cells))} |\n" for cells in lines)


def _links(names: Sequence[str]) -> str:
    return "<br>".join(_link(*name.split("::")) for name in names)


def _link(path: str, function: str) -> str:
    return f"[{function.removeprefix('test_').replace('_', ' ')}](../{path})"
