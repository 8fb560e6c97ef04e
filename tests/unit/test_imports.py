"""Imports only point down; the process that answers requests stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import eztinker

SOURCE = Path(eztinker.__file__).parent
WORDS = {"types", "errors", "failpoints", "redaction"}
ABOVE_THE_ENGINE = {
    "config",
    "data_dir",
    "keys",
    "issued_keys",
    "addresses",
    "client_settings",
    "home",
    "process_end",
    "rest_client",
    "standard_streams",
    "tested_versions",
}
MAY_IMPORT = {
    "protocol": WORDS,
    "model_files": WORDS | {"float_tensors"},
    "base_models": WORDS | {"config", "float_tensors", "home", "model_files"},
    "model": WORDS | {"model_files"},
    "engine": WORDS | {"loss_specs", "model"},
    "checkpoints": WORDS | {"float_tensors", "flushing"},
    "worker": WORDS | {"protocol", "checkpoints", "engine", "model", "model_files"},
    "oplog": WORDS | {"flushing"},
    "service": WORDS
    | {"config", "keys", "issued_keys", "loss_specs", "protocol", "oplog", "checkpoints", "base_models", "model_files"},
    "api": WORDS | {"config", "addresses", "protocol", "service"},
    "dataset": {"errors"},
    "rl": {"errors", "client_settings", "rest_client", "dataset"},
    "cli": WORDS | ABOVE_THE_ENGINE | {"api", "service", "base_models", "model_files", "checkpoints", "dataset", "rl"},
}
MAY_IMPORT_TORCH = {"model", "engine", "worker"}
HEAVY = {"torch", "transformers", "tinker"}


def modules_in(package: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((SOURCE / package).rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def imported_names(tree: ast.Module) -> Iterator[str]:
    """Dotted names of all that is imported anywhere in a module, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_packages_imported_by(package: str) -> set[str]:
    names = {name for _, tree in modules_in(package) for name in imported_names(tree)}
    parts = {tuple(name.split(".")) for name in names}
    return {part[1] for part in parts if part[0] == "eztinker" and len(part) > 1 and part[1] != "__version__"}


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_imports_only_point_down(package: str):
    reached = own_packages_imported_by(package) - {package}
    assert reached <= MAY_IMPORT[package], f"{package} reaches upward"


def test_every_package_has_its_row():
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert packages == set(MAY_IMPORT)


@pytest.mark.parametrize("package", sorted(set(MAY_IMPORT) - MAY_IMPORT_TORCH))
def test_only_the_engine_side_imports_torch(package: str):
    for path, tree in modules_in(package):
        assert "torch" not in {name.split(".")[0] for name in imported_names(tree)}, path


@pytest.mark.parametrize("module", ["", ".api", ".api.app", ".service", ".base_models.catalog", ".cli.app", ".config"])
def test_importing_loads_nothing_heavy(module: str):
    code = f"import sys, eztinker{module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert HEAVY.isdisjoint(loaded)
