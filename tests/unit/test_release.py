"""A release's tag, version and changelog must say the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import eztinker

ROOT = Path(__file__).parents[2]
CHECK = ROOT / ".ci" / "check_version.py"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One commit of version 1.2.3, released on a day."""
    package = tmp_path / "src" / "eztinker"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.3 (2027-01-31)\n\n## 1.2.2 (2027-01-01)\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "Release")
    return tmp_path


def git(directory: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=Ann", "-c", "user.email=ann@localhost", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(directory), *identity, *arguments], check=True, capture_output=True)


def check(directory: Path) -> tuple[int, str]:
    done = subprocess.run([sys.executable, str(CHECK), str(directory)], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_this_source_tree_fits_together():
    code, said = check(ROOT)
    assert code == 0, said
    assert eztinker.__version__ in said


@pytest.mark.parametrize("tags", [[], ["v1.2.3"], ["v1.2.3", "nightly"]])
def test_a_commit_without_a_tag_or_with_the_right_one_passes(repository: Path, tags: list[str]):
    for tag in tags:
        git(repository, "tag", tag)
    assert check(repository) == (0, "Version 1.2.3: changelog and tags fit\n")


def test_another_tag_is_named(repository: Path):
    git(repository, "tag", "v1.2.4")
    assert check(repository) == (1, "Error: the version is 1.2.3, but this commit has the tag v1.2.4\n")


def test_a_changelog_of_another_version_is_named(repository: Path):
    (repository / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.2 (2027-01-01)\n")
    assert check(repository) == (1, "Error: the version is 1.2.3, but CHANGELOG.md begins with 1.2.2\n")


def test_a_release_needs_a_date(repository: Path):
    (repository / "CHANGELOG.md").write_text("## 1.2.3 (not released yet)\n")
    assert check(repository)[0] == 0
    git(repository, "tag", "v1.2.3")
    code, said = check(repository)
    assert (code, "has no date: 'not released yet'" in said) == (1, True)


def test_a_version_of_another_form_is_named(repository: Path):
    (repository / "src" / "eztinker" / "__init__.py").write_text('__version__ = "1.2"\n')
    code, said = check(repository)
    assert (code, "must look like X.Y.Z, got '1.2'" in said) == (1, True)
