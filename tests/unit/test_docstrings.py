"""Every docstring can be read alone, names do not have two meanings, and the word for a pending result is `future`."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.import_graph import SOURCE

PROJECT = SOURCE.parent.parent
FOLDERS = (SOURCE, PROJECT / "benchmarks")
OPENINGS = re.compile(
    r"(?:of|those|these|them|the same|the other|its|their|it|they|such|also|as|by|another|what|which|who|whose|whoever"
    r"|where|when|how|not)\b",
    re.IGNORECASE,
)
"""First words that lean on a sentence before them, or that ask a question instead of naming a thing."""
WIRE_NAMES = frozenset[str]()
"""Names of the Tinker protocol that say `promise`; it has none so far."""

Docstring = tuple[int, str]


def sources() -> list[Path]:
    found = [path for folder in FOLDERS for path in sorted(folder.rglob("*.py")) if not path.name.endswith("_pb2.py")]
    assert len(found) > 200
    return found


def shown(path: Path) -> str:
    return str(path.relative_to(SOURCE if path.is_relative_to(SOURCE) else PROJECT))


def docstrings(tree: ast.Module) -> Iterator[Docstring]:
    """Line and text of every docstring, those of attributes and constants included."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, text


def is_offence(text: str) -> bool:
    text = text.strip()
    return not text or OPENINGS.match(text) is not None or text.startswith(("Args:", "Raises:"))


def offences(paths: list[Path]) -> list[str]:
    return [
        f"{shown(path)}:{line}: {text.strip()[:80]!r}"
        for path in paths
        for line, text in docstrings(ast.parse(path.read_text(encoding="utf-8")))
        if is_offence(text)
    ]


def test_docstrings_say_what_a_thing_is_in_their_first_words():
    assert offences(sources()) == []


SAMPLE = '''"""Of a module."""
class A:
    """The same as a class."""
    x: int
    """Those of an attribute."""
    def f(self):
        """
        Args:
            self: no summary.
        """
    def g(self):
        """Offers; like `find`, but itself."""
'''


def test_the_check_finds_docstrings_of_every_kind():
    assert [line for line, text in docstrings(ast.parse(SAMPLE)) if is_offence(text)] == [1, 3, 5, 7]


def names_in(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.arg(arg=name) | ast.Attribute(attr=name) | ast.keyword(arg=str(name)):
                yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name


def test_a_pending_result_is_called_a_future():
    found = []
    for path in sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [
            f"{shown(path)}:{line}: {text.strip()[:80]}"
            for line, text in (*names_in(tree), *docstrings(tree))
            if re.search("promise", text, re.IGNORECASE) and text not in WIRE_NAMES
        ]
    assert found == []


def test_no_two_classes_share_a_name():
    places: dict[str, list[str]] = defaultdict(list)
    for path in sources():
        if path.is_relative_to(SOURCE):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    places[node.name].append(f"{shown(path)}:{node.lineno}")
    shared = {name: found for name, found in places.items() if len(found) > 1}
    assert shared == {}
