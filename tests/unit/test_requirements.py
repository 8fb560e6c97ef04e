"""The lock files hold what pyproject.toml asks for, with hashes, and name no place to fetch it from."""

from __future__ import annotations

import importlib.util
import itertools
import re
import tomllib
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from eztinker import extras
from eztinker.tested_versions import newest_tested

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
GROUPS: dict[str, list[Any]] = PROJECT["dependency-groups"]
PLATFORMS = (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))
SUPPORTED = [
    {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": platform,
        "platform_machine": machine,
    }
    for python, (platform, machine) in itertools.product(("3.11", "3.12", "3.13"), PLATFORMS)
]


def requirements(lines: list[Any]) -> list[Requirement]:
    """The packages of a group or list, without the groups that it includes."""
    return [Requirement(line) for line in lines if isinstance(line, str)]


BASE = requirements(PROJECT["project"]["dependencies"])
RECIPES = requirements(EXTRAS["recipes"])
TEST = RECIPES + requirements(GROUPS["test"])
DEV = requirements(GROUPS["dev"] + GROUPS["docs"])


def blocks(name: str) -> list[str]:
    """Each requirement of a file, with the hashes and comments that follow it."""
    text = (REQUIREMENTS / name).read_text(encoding="utf-8")
    return re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]


def pins(name: str, environment: dict[str, str]) -> dict[str, Version]:
    """What a file installs in one environment, with torch, which stands beside it."""
    lines = [block.partition("\n")[0].rstrip(" \\") for block in blocks(name) + blocks("torch.txt")]
    applying = [it for it in map(Requirement, lines) if it.marker is None or it.marker.evaluate(dict(environment))]
    names = [canonicalize_name(it.name) for it in applying]
    assert len(names) == len(set(names)), "one package is pinned twice"
    return {name: Version(str(it.specifier).removeprefix("==")) for name, it in zip(names, applying, strict=True)}


@pytest.mark.parametrize("environment", SUPPORTED)
@pytest.mark.parametrize(("name", "wanted"), [("lock.txt", BASE + TEST + DEV), ("lowest.txt", BASE + TEST)])
def test_each_dependency_is_locked_within_its_bounds(name: str, wanted: list[Requirement], environment: dict[str, str]):
    locked = pins(name, environment)
    for requirement in wanted:
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement


def test_the_lowest_lane_runs_at_the_floors():
    locked = pins("lowest.txt", SUPPORTED[0])
    for requirement in BASE + TEST:
        (floor,) = [it.version for it in requirement.specifier if it.operator == ">="]
        assert locked[canonicalize_name(requirement.name)] == Version(floor), requirement


def test_what_the_locked_packages_need_is_locked_too():
    """They are installed without asking for it."""
    environment = SUPPORTED[0]
    locked = pins("lock.txt", environment)
    for name in locked:
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # of another Python or platform, or a tool that this environment does without
        for needed in map(Requirement, lines):
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert canonicalize_name(needed.name) in locked or name == "torch", f"{name} needs {needed}"


@pytest.mark.parametrize("name", ["lock.txt", "lowest.txt"])
def test_everything_but_torch_has_hashes(name: str):
    for block in blocks(name):
        assert re.search(r"^    --hash=sha256:[0-9a-f]{64}", block, re.MULTILINE), block


@pytest.mark.parametrize("name", ["lock.txt", "lowest.txt"])
def test_nothing_of_the_cuda_build_is_locked(name: str):
    assert not re.search(r"^(torch|triton|nvidia-|cuda-)", (REQUIREMENTS / name).read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", sorted(REQUIREMENTS.glob("*.txt")), ids=lambda path: path.name)
def test_no_address_and_no_path_of_a_machine_is_named(path: Path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"://|--(extra-)?index-url|--find-links|(^|\s)/|\.(com|org|net|io)\b", text)


def test_the_tested_versions_are_those_of_the_lock():
    locked = pins("lock.txt", SUPPORTED[0])
    direct = {canonicalize_name(requirement.name) for requirement in BASE + RECIPES}
    assert newest_tested() == {name: str(version) for name, version in locked.items() if name in direct}


def test_groups_get_all_that_the_extra_for_recipes_has():
    """A group cannot include an extra, so its packages are written twice."""
    assert GROUPS["recipes"] == EXTRAS["recipes"]
    assert {"include-group": "recipes"} in GROUPS["test"]
    assert {canonicalize_name(it.name) for it in RECIPES} == set(extras.RECIPES)


def compare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare", REQUIREMENTS / "compare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_newest_lane_knows_what_this_interpreter_would_get_from_the_lock():
    here = {name: str(version) for name, version in pins("lock.txt", {}).items()}
    assert compare().locked_versions() == here


@pytest.mark.parametrize(("name", "locked"), [("msgspec", newest_tested()["msgspec"]), ("unheard_of", "not at all")])
def test_one_package_that_the_lock_does_not_have_makes_the_newest_lane_run(
    name: str, locked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Real metadata in front of what is installed."""
    folder = tmp_path / f"{name}-99.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 99\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert compare().main() == 1
    assert f"{name.replace('_', '-')} 99 (locked: {locked})" in capsys.readouterr().out
