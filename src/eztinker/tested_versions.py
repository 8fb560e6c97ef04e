"""A check for installed dependencies outside the versions that EZTinker was tested with.

The range of a dependency begins at the floor in EZTinker's own metadata and ends at the version in tested_versions.txt,
which `make lock` writes. Both ends are tested: the floors by `make test-lowest`, the others by `make test`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eztinker.extras import RECIPES

TESTED_VERSIONS = Path(__file__).with_name("tested_versions.txt")
_NAMED = 3
"""Most packages to name in one line."""


@dataclass(frozen=True, slots=True)
class UntestedPackage:
    name: str
    problem: str
    """A clause after the name that says what is wrong with the installed version."""
    newest_tested: str

    def __str__(self) -> str:
        return f"{self.name} {self.problem}"


def newest_tested() -> dict[str, str]:
    """Newest tested version of each dependency, by name."""
    lines = TESTED_VERSIONS.read_text(encoding="utf-8").split()
    return {name: version for name, _, version in (line.partition("==") for line in lines)}


def untested_packages() -> list[UntestedPackage]:
    """Dependencies that are missing or outside their range; quick if all are at their newest tested version.

    Packages that only some features need may be missing.
    """
    newest = newest_tested()
    other = {name: version for name in newest if (version := installed_version(name)) != newest[name]}
    other = {name: version for name, version in other.items() if version is not None or name not in RECIPES}
    if not other:
        return []  # importing `packaging` takes ten times as long as all of the above
    floors = _floors()
    problems = {name: _problem(other[name], floors.get(name, ""), newest[name]) for name in other}
    return [UntestedPackage(name, problem, newest[name]) for name, problem in problems.items() if problem]


def installed_version(name: str) -> str | None:
    """Installed version without the label of a local build, such as torch's +cpu; None if the package is missing."""
    from importlib import metadata

    try:
        text = metadata.distribution(name).read_text("METADATA") or ""
    except metadata.PackageNotFoundError:
        return None
    # The library's own `version` reads every header and the description, which takes eight times as long.
    found = re.search(r"^Version:\s*([^\s+]+)", text, re.MULTILINE)
    return found[1] if found else None


def as_note(packages: Sequence[UntestedPackage]) -> str:
    """One line about these packages, for the start of a server."""
    named = "; ".join(str(package) for package in packages[:_NAMED])
    if len(packages) > _NAMED:
        return f"{named}; and {len(packages) - _NAMED} more packages; 'eztinker doctor' names all"
    return f"{named}; if something fails: {install_command(packages)}"


def install_command(packages: Sequence[UntestedPackage]) -> str:
    return " ".join(["pip install", *(f"{package.name}=={package.newest_tested}" for package in packages)])


def _floors() -> dict[str, str]:
    """Version ranges in EZTinker's metadata, by name; empty in a source tree that was never installed."""
    from importlib import metadata

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    try:
        lines = metadata.requires("eztinker") or []
    except metadata.PackageNotFoundError:
        return {}
    requirements = [Requirement(line) for line in lines]
    needed = [it for it in requirements if it.marker is None or it.marker.evaluate({"extra": "recipes"})]
    return {canonicalize_name(it.name): str(it.specifier) for it in needed}


def _problem(installed: str | None, floor: str, newest: str) -> str | None:
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion, Version

    if installed is None:
        return "is not installed"
    try:
        version = Version(installed)
    except InvalidVersion:
        return f"says that its version is {installed!r}, which is none"
    if version > Version(newest):
        return f"{installed} is newer than {newest}, the newest that was tested"
    if not SpecifierSet(floor).contains(version, prereleases=True):
        return f"{installed} is outside {floor}, which EZTinker needs"
    return None
