"""Fails where the version, the changelog and a release's tag do not say the same.

A release is a commit with the tag vX.Y.Z, X.Y.Z being `eztinker.__version__` and the first section of CHANGELOG.md,
which then has a date. Any other commit has no such tag. `python .ci/check_version.py [DIRECTORY]`
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def problems(root: Path) -> list[str]:
    """Sentences about versions that do not fit together."""
    version = version_of(root)
    found = []
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        found.append(f"the version must look like X.Y.Z, got {version!r}")
    section, note = first_section(root)
    if section != version:
        found.append(f"the version is {version}, but CHANGELOG.md begins with {section}")
    tags = tags_here(root)
    if wrong := [tag for tag in tags if tag != f"v{version}"]:
        found.append(f"the version is {version}, but this commit has the tag {' and '.join(wrong)}")
    if tags and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", note):
        found.append(f"this commit has a tag, but the section {section} of CHANGELOG.md has no date: {note!r}")
    return found


def version_of(root: Path) -> str:
    text = (root / "src" / "eztinker" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.*)"$', text, re.MULTILINE)
    return found[1] if found else ""


def first_section(root: Path) -> tuple[str, str]:
    """Version and remark of the newest section: `## 1.2.3 (2027-01-31)`."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.search(r"^## (\S+) \((.*)\)$", text, re.MULTILINE)
    return (found[1], found[2]) if found else ("no version", "")


def tags_here(root: Path) -> list[str]:
    """Tags of releases at this commit; none in a source tree without its history."""
    command = ["git", "-C", str(root), "tag", "--points-at", "HEAD", "--list", "v[0-9]*"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.split() if done.returncode == 0 else []


def main(root: Path) -> int:
    found = problems(root)
    for problem in found:
        print(f"Error: {problem}", file=sys.stderr)
    if not found:
        print(f"Version {version_of(root)}: changelog and tags fit")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
