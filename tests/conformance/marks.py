"""Which test shows which point: read from the sources, so that nothing needs to be imported or run."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

ROOT = Path(__file__).parents[2]
MARKER = "conforms"
Point: TypeAlias = int | str
"""A number of the checklist, or the name of something refused."""


def marked_tests() -> dict[Point, list[str]]:
    """The tests that show each point, as pytest names them (`tests/e2e/test_sdk.py::test_x`), sorted."""
    tests: dict[Point, list[str]] = defaultdict(list)
    for path in sorted(ROOT.glob("tests/**/test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                for point in _points(node):
                    tests[point].append(f"{path.relative_to(ROOT).as_posix()}::{node.name}")
    return dict(tests)


def _points(function: ast.FunctionDef) -> Iterator[Point]:
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == f"pytest.mark.{MARKER}":
            yield from (ast.literal_eval(argument) for argument in decorator.args)
