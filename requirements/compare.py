"""Prints how this environment differs from lock.txt and torch.txt; exit 0 where it does not.

What is locked and not installed does not count: the tools of `make lint` are in the lock too.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

HERE = Path(__file__).parent


def locked_versions() -> dict[str, str]:
    """The versions that the lock has for this interpreter and platform."""
    text = "\n".join((HERE / name).read_text(encoding="utf-8") for name in ("lock.txt", "torch.txt"))
    lines = re.findall(r"^[a-z][^\\\n]*", text, flags=re.MULTILINE)
    applying = [it for it in map(Requirement, lines) if it.marker is None or it.marker.evaluate()]
    return {canonicalize_name(it.name): str(it.specifier).removeprefix("==") for it in applying}


def installed_versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for each in metadata.distributions():
        found.setdefault(canonicalize_name(each.name), Version(each.version).public)  # the first is the one imported
    found.pop("eztinker", None)
    return found


def main() -> int:
    locked = locked_versions()
    differences = [
        f"{name} {version} (locked: {locked.get(name, 'not at all')})"
        for name, version in sorted(installed_versions().items())
        if locked.get(name) != version
    ]
    if differences:
        print("Other than in the lock: " + ", ".join(differences))
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
