"""What is said about packages outside the tested versions; other versions are real metadata in front of the path."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from eztinker import extras
from eztinker.cli.checks import Verdict, check_packages
from eztinker.tested_versions import as_note, installed_version, newest_tested, untested_packages

Install = Callable[[str, str], None]
PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of packages: EZTinker, and each dependency as tested."""
    folder = tmp_path / "site"
    recipes = [f"{line} ; extra == 'recipes'" for line in PROJECT["optional-dependencies"]["recipes"]]
    write_metadata(folder, "eztinker", "0.1.0", *PROJECT["dependencies"], *recipes)
    for name, version in newest_tested().items():
        write_metadata(folder, name, version)
    return folder


@pytest.fixture
def install(site: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    monkeypatch.syspath_prepend(site)

    def install(name: str, version: str) -> None:
        remove_metadata(site, name)
        write_metadata(site, name, version)

    return install


def write_metadata(site: Path, name: str, version: str, *needed: str) -> None:
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    head = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {it}" for it in needed)]
    (folder / "METADATA").write_text("\n".join(head) + "\n\nVersion: 0 is in its description\n")


def remove_metadata(site: Path, name: str) -> None:
    shutil.rmtree(site / f"{name.replace('-', '_')}-{newest_tested()[name]}.dist-info")


@pytest.mark.usefixtures("install")
def test_nothing_is_said_of_what_was_tested_and_nothing_more_is_loaded():
    assert untested_packages() == []
    finding = check_packages()
    assert (finding.verdict, finding.fix) == (Verdict.GOOD, None)


@pytest.mark.parametrize(("version", "is_loaded"), [(newest_tested()["msgspec"], False), ("999.0", True)])
def test_what_compares_versions_is_loaded_only_where_one_differs(
    site: Path, install: Install, version: str, is_loaded: bool
):
    install("msgspec", version)
    code = "import sys; from eztinker.tested_versions import *; untested_packages(); print('packaging' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(is_loaded)


@pytest.mark.parametrize(
    ("name", "version", "said"),
    [
        ("msgspec", "999.1", "msgspec 999.1 is newer than {newest}, the newest that was tested"),
        ("msgspec", "999.1rc1", "msgspec 999.1rc1 is newer than {newest}, the newest that was tested"),
        ("starlette", "0.40.0", "starlette 0.40.0 is outside >=1.5, which EZTinker needs"),
        ("transformers", "5.6.1", "transformers 5.6.1 is outside !=5.6.*,>=5.5.4, which EZTinker needs"),
        ("matplotlib", "3.9.0", "matplotlib 3.9.0 is outside >=3.10.7, which EZTinker needs"),
        ("orjson", "unknown", "orjson says that its version is 'unknown', which is none"),
    ],
)
def test_a_version_outside_the_range_is_named(install: Install, name: str, version: str, said: str):
    install(name, version)
    newest = newest_tested()[name]
    (package,) = untested_packages()
    assert str(package) == said.format(newest=newest)
    finding = check_packages()
    assert (finding.verdict, finding.found) == (Verdict.NOTE, str(package))
    assert finding.fix == f"if something fails: pip install {name}=={newest}"


@pytest.mark.parametrize(
    ("name", "version"), [("starlette", "1.5.0"), ("msgspec", "0.19.0"), ("transformers", "5.7.0")]
)
def test_versions_within_the_range_are_not_named(install: Install, name: str, version: str):
    install(name, version)
    assert untested_packages() == []


def test_a_local_build_is_the_release_that_it_is_built_from(install: Install):
    install("torch", f"{newest_tested()['torch']}+cpu")
    assert installed_version("torch") == newest_tested()["torch"]
    assert untested_packages() == []


def test_a_missing_package_is_named(site: Path, monkeypatch: pytest.MonkeyPatch):
    remove_metadata(site, "pyrage")
    monkeypatch.setattr(sys, "path", [str(site)])
    assert [str(package) for package in untested_packages()] == ["pyrage is not installed"]


def test_a_package_that_a_server_does_without_may_be_missing(site: Path, monkeypatch: pytest.MonkeyPatch):
    for name in extras.RECIPES:
        remove_metadata(site, name)
    monkeypatch.setattr(sys, "path", [str(site)])
    assert untested_packages() == []


def test_the_server_says_it_in_one_line_however_many_there_are(install: Install):
    newest = newest_tested()
    install("msgspec", "999.1")
    assert as_note(untested_packages()) == (
        f"msgspec 999.1 is newer than {newest['msgspec']}, the newest that was tested; "
        f"if something fails: pip install msgspec=={newest['msgspec']}"
    )
    for name in ("orjson", "pydantic", "rich", "typer"):
        install(name, "999.1")
    note = as_note(untested_packages())
    assert "\n" not in note
    assert note.endswith("; and 2 more packages; 'eztinker doctor' names all")
