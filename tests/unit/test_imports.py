"""Imports only point down, between packages and between the rooms of `service/`; what answers requests stays light."""

from __future__ import annotations

import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.import_graph import SOURCE, arrows, imported_names, modules_in, page

WORDS = {"types", "errors", "failpoints", "redaction"}
ABOVE_THE_ENGINE = {
    "extras",
    "keys",
    "paths",
    "settings",
    "process_end",
    "rest_client",
    "standard_streams",
    "tested_versions",
}
MAY_IMPORT = {
    "keys": WORDS | {"flushing", "paths"},
    "settings": WORDS | {"keys", "paths"},
    "protocol": WORDS,
    "model_files": WORDS | {"float_tensors"},
    "base_models": WORDS | {"extras", "settings", "float_tensors", "model_files"},
    "model": WORDS | {"model_files"},
    "engine": WORDS | {"loss_specs", "model"},
    "checkpoints": WORDS | {"float_tensors", "flushing"},
    "worker": WORDS | {"protocol", "checkpoints", "engine", "model", "model_files"},
    "oplog": WORDS | {"flushing"},
    "service": WORDS
    | {"settings", "keys", "loss_specs", "protocol", "oplog", "checkpoints", "base_models", "model_files"},
    "api": WORDS | {"settings", "protocol", "service"},
    "dataset": {"errors", "extras"},
    "rl": {"errors", "extras", "settings", "rest_client", "dataset"},
    "cli": WORDS | ABOVE_THE_ENGINE | {"api", "service", "base_models", "model_files", "checkpoints", "dataset", "rl"},
}
ROOMS_MAY_IMPORT = {
    "clock": set(),
    "validation": set(),
    "accounts": {"clock"},
    "sessions": {"accounts", "clock", "validation"},
    "checkpoints": {"sessions", "accounts", "clock", "validation"},
    "execution": {"checkpoints", "sessions", "accounts", "clock"},
    "sampling": {"execution", "checkpoints", "sessions", "accounts", "clock", "validation"},
    "training": {"execution", "checkpoints", "sessions", "accounts", "clock", "validation"},
    "service": {"training", "sampling", "execution", "checkpoints", "sessions", "accounts", "clock"},
}
"""What each room of `service/` may import from the others."""
MAX_ROOMS, MAX_ARROWS = 9, 40
MAY_IMPORT_TORCH = {"model", "engine", "worker"}
HEAVY = {"torch", "transformers", "tinker"}


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_imports_only_point_down(package: str):
    reached = arrows().get(package, set())
    assert reached <= MAY_IMPORT[package], f"{package} reaches upward"


def test_every_package_has_its_row():
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert packages == set(MAY_IMPORT)


@pytest.mark.parametrize("room", sorted(ROOMS_MAY_IMPORT))
def test_rooms_of_the_service_import_only_what_lies_below_them(room: str):
    reached = arrows("service").get(room, set())
    assert reached <= ROOMS_MAY_IMPORT[room], f"service/{room} reaches upward"


def test_the_service_has_few_rooms_and_few_arrows_between_them():
    found = arrows("service")
    assert found.keys() | set().union(*found.values()) == set(ROOMS_MAY_IMPORT)
    assert len(ROOMS_MAY_IMPORT) <= MAX_ROOMS
    assert sum(map(len, found.values())) <= MAX_ARROWS


@pytest.mark.parametrize("package", ["", *sorted(MAY_IMPORT), *(f"service/{room}" for room in ROOMS_MAY_IMPORT)])
def test_no_imports_run_in_a_circle(package: str):
    TopologicalSorter(arrows(package)).prepare()  # raises CycleError, which names the circle


def test_the_map_in_the_documentation_is_that_of_this_code():
    assert Path("docs/map.md").read_text(encoding="utf-8") == page(), "make map writes it anew"


@pytest.mark.parametrize("package", sorted(set(MAY_IMPORT) - MAY_IMPORT_TORCH))
def test_only_the_engine_side_imports_torch(package: str):
    for path, tree in modules_in(package):
        assert "torch" not in {name.split(".")[0] for name in imported_names(tree)}, path


@pytest.mark.parametrize(
    "module", ["", ".api", ".api.app", ".service", ".base_models.catalog", ".cli.app", ".settings.server_config"]
)
def test_importing_loads_nothing_heavy(module: str):
    code = f"import sys, eztinker{module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert HEAVY.isdisjoint(loaded)
