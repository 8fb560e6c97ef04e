"""`tests/unit` mirrors the source: a module of some length has the test file of its name, where one looks for it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.import_graph import SOURCE

UNIT = Path(__file__).parent
ROOT = UNIT.parents[1]
MIRRORED = ("api", "base_models", "checkpoints", "dataset", "engine", "model", "model_files", "oplog", "protocol")
LONG = 40
"""Lines beyond which a module has a test file of its own."""
MADE_BY_TOOLS = ("_pb2.py",)


def long_modules(package: str) -> list[Path]:
    """The modules of a package that need a test file, relative to the source; not what describes a past schema."""
    found = [path.relative_to(SOURCE) for path in sorted((SOURCE / package).rglob("*.py"))]
    return [
        module
        for module in found
        if "migrations" not in module.parts
        and not module.name.startswith("__")
        and not module.name.endswith(MADE_BY_TOOLS)
        and len((SOURCE / module).read_text(encoding="utf-8").splitlines()) > LONG
    ]


def place_of_tests(module: Path) -> Path:
    """Where the tests of a module belong."""
    return UNIT / module.parent / f"test_{module.name}"


@pytest.mark.parametrize("module", [module for package in MIRRORED for module in long_modules(package)], ids=str)
def test_a_module_has_its_tests_where_one_looks_for_them(module: Path):
    place = place_of_tests(module)
    assert place.is_file(), (
        f"src/eztinker/{module.as_posix()} has more than {LONG} lines and no test file of its own: its tests belong in "
        f"{place.relative_to(ROOT).as_posix()}"
    )


def test_no_package_is_overlooked():
    assert set(MIRRORED) <= {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert all(len(long_modules(package)) >= 4 for package in MIRRORED)


def test_a_test_file_holds_tests():
    empty = [
        path.relative_to(ROOT).as_posix()
        for path in UNIT.rglob("test_*.py")
        if "def test_" not in path.read_text(encoding="utf-8")
    ]
    assert empty == [], "they are helpers: give them a name without test_"


def test_files_of_one_name_are_told_apart(pytestconfig: pytest.Config):
    """Two packages may have a module of one name, and so two folders a test file: they are imported by their paths."""
    names = Counter(path.name for path in ROOT.glob("tests/**/test_*.py"))
    assert max(names.values()) > 1
    assert pytestconfig.getoption("importmode") == "importlib"
