"""Who imports whom, read from the source. `python -m tests.import_graph docs/map.md` draws it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import eztinker

SOURCE = Path(eztinker.__file__).parent
_NO_PARTS = {"__init__", "__main__", "__version__"}
_HEAD = """# Map

Who imports whom: each part of a table is a package or a module, and an arrow between two of them is counted once,
however many imports it stands for. Parts are listed from the bottom up: one imports only what is above it in its table.
`make map` writes this page.
"""


def modules_in(package: str) -> Iterator[tuple[Path, ast.Module]]:
    """The modules below a folder of the source, or the one module of that name."""
    root = SOURCE / package
    for path in sorted(root.rglob("*.py")) if root.is_dir() else [root.with_suffix(".py")]:
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def imported_names(tree: ast.Module) -> Iterator[str]:
    """Dotted names of all that is imported anywhere in a module, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def arrows(package: str = "") -> dict[str, set[str]]:
    """Which parts of a package import which others of its parts; a part is a package or a module directly in it."""
    folder = SOURCE / package
    if not folder.is_dir():
        return {}
    parts = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    prefix = ("eztinker", *Path(package).parts)
    found: dict[str, set[str]] = {part: set() for part in sorted(parts - _NO_PARTS)}
    for part, reached in found.items():
        for _, tree in modules_in(f"{package}/{part}" if package else part):
            for name in imported_names(tree):
                path = tuple(name.split("."))
                if path[: len(prefix)] == prefix and len(path) > len(prefix):
                    reached.add(path[len(prefix)])
        reached &= found.keys() - {part}
    return found


def drawn(title: str, package: str) -> str:
    """A table of one package's parts and arrows."""
    found = arrows(package)
    num_arrows = sum(map(len, found.values()))
    in_order = TopologicalSorter({part: sorted(reached) for part, reached in found.items()}).static_order()
    rows = [f"| `{part}` | {', '.join(f'`{each}`' for each in sorted(found[part])) or '-'} |" for part in in_order]
    head = f"## {title}\n\n{len(found)} parts, {num_arrows} arrows.\n\n| part | imports |\n|---|---|\n"
    return head + "\n".join(rows) + "\n"


def page() -> str:
    return "\n".join([_HEAD, drawn("eztinker", ""), drawn("eztinker/service", "service")])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
