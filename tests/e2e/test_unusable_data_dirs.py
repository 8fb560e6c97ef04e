"""Row 34: data directories that cannot be used, or not safely. The start is refused in one sentence.

Permissions do not stop a root user who has the capability to pass over them, so as root the commands run without it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from eztinker.keys.issued_keys import issue_key
from eztinker.service.service import check_storage
from eztinker.settings.data_dir import claim
from eztinker.settings.server_config import ServerConfig

IS_ROOT = os.geteuid() == 0
NOBODY = 65534
PASSING_OVER_PERMISSIONS = "-dac_override,-dac_read_search"

as_root = pytest.mark.skipif(not IS_ROOT, reason="only root can give files to another user, or mount")


def eztinker(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "eztinker", *arguments]
    if IS_ROOT:
        if shutil.which("setpriv") is None:
            pytest.skip("root cannot be held to permissions here: there is no setpriv")
        dropped = (f"{option}={PASSING_OVER_PERMISSIONS}" for option in ("--inh-caps", "--bounding-set"))
        command = ["setpriv", *dropped, *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def refused(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Hold that a command ended with one sentence that has these parts."""
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert done.stderr.startswith("Error: ")
    for part in parts:
        assert part in done.stderr


def start(data_dir: Path) -> subprocess.CompletedProcess[str]:
    return eztinker("server", "--port", "0", "--data-dir", str(data_dir), "--base-model", "none=/not/there")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A directory that is a file system of 256 kB."""
    directory = tmp_path / "mounted"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", str(directory)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """A directory with all that servers leave in it."""
    data_dir = tmp_path / "used"
    settings: dict[str, Any] = {"data_dir": data_dir}
    with claim(data_dir):
        issue_key(data_dir, "ann", datetime.now(UTC))
        for name in ("checkpoints", "snapshots"):
            (data_dir / name).mkdir(mode=0o700)
        (data_dir / "eztinker.toml").write_text("port = 0\n")
        (data_dir / "eztinker.toml").chmod(0o600)
        check_storage(ServerConfig(**settings))
    return data_dir


@as_root
def test_a_read_only_directory_is_refused_and_left_as_it_was(mounted: Path):
    issue_key(mounted, "ann", datetime.now(UTC))
    files = sorted(path.name for path in mounted.iterdir())
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    for data_dir in (mounted, mounted / "inside"):
        refused(start(data_dir), f"The data directory {data_dir} cannot be written (Read-only", "--data-dir")
    for command in (["create", "--owner", "bob"], ["revoke", "1"]):
        done = eztinker("keys", *command, "--data-dir", str(mounted))
        refused(done, "issued_keys.json cannot be written (Read-only")
    assert "ann" in eztinker("keys", "list", "--data-dir", str(mounted)).stdout
    assert sorted(path.name for path in mounted.iterdir()) == files


@as_root
def test_a_full_disk_is_refused_and_the_directory_is_good_again_once_there_is_room(mounted: Path):
    filler = mounted / "filler"
    with open(filler, "wb", buffering=0) as file:
        assert file.write(bytes(1 << 20)) < 1 << 20
    refused(start(mounted), "No space left on device")
    filler.unlink()
    refused(start(mounted), "The directory /not/there of base model 'none' does not exist")  # which comes last


def test_a_directory_that_its_owner_may_not_write_is_refused(tmp_path: Path):
    tmp_path.chmod(0o500)
    refused(start(tmp_path), f"The data directory {tmp_path} cannot be written (Permission denied)", "--data-dir")


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o777])
def test_the_directory_of_another_user_is_refused(tmp_path: Path, mode: int):
    data_dir = Path("/")  # of root
    if IS_ROOT:
        data_dir = tmp_path / "nobodys"
        data_dir.mkdir()
        data_dir.chmod(mode)
        os.chown(data_dir, NOBODY, NOBODY)
    found = f"{data_dir}/eztinker.toml cannot be read" if mode == 0o700 and IS_ROOT else "belongs to another user"
    refused(start(data_dir), str(data_dir), found, "run as its owner")
    assert not IS_ROOT or list(data_dir.iterdir()) == []


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o1777])
def test_a_directory_that_others_may_change_is_refused_with_the_command_that_closes_it(tmp_path: Path, mode: int):
    tmp_path.chmod(mode)
    refused(start(tmp_path), f"(mode {mode:o})", f"run: chmod go-w {tmp_path}")
    refused(eztinker("keys", "create", "ann", "--data-dir", str(tmp_path)), f"run: chmod go-w {tmp_path}")
    assert list(tmp_path.iterdir()) == []
    tmp_path.chmod(mode & ~0o022)
    refused(start(tmp_path), "The directory /not/there of base model 'none' does not exist")


@as_root
@pytest.mark.parametrize(
    "name",
    ["api_key", "checkpoints", "eztinker.toml", "issued_keys.json", "oplog.sqlite3", "signing_secret", "snapshots"],
)
def test_what_another_user_owns_inside_is_named(used: Path, name: str):
    os.chown(used / name, NOBODY, NOBODY)
    refused(start(used), f"{used / name} cannot be read", "run as its owner")
