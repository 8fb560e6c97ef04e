"""Folders that appear whole or not at all, and what a disk's refusal is called."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from eztinker.checkpoints.disk import atomic_directory, disk_error, try_to_remove, write_file
from eztinker.errors import DiskBroken, DiskFull


def with_free(monkeypatch: pytest.MonkeyPatch, num_bytes: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=num_bytes))


def break_off(staging: Path, error: BaseException) -> None:
    """Fail behind the first file."""
    write_file(staging / "a", b"abc")
    raise error


def test_a_folder_is_there_with_all_its_files_at_the_end_of_the_block_and_not_before(tmp_path: Path):
    directory = tmp_path / "parent" / "whole"
    with atomic_directory(directory, num_bytes=3) as staging:
        write_file(staging / "a", b"abc")
        assert not directory.exists()
    assert (directory / "a").read_bytes() == b"abc"
    assert [each.name for each in directory.parent.iterdir()] == ["whole"]
    assert directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), OSError(errno.EIO, "I/O error")], ids=str)
def test_a_block_that_fails_leaves_nothing(tmp_path: Path, error: BaseException):
    with (
        pytest.raises(DiskBroken if isinstance(error, OSError) else type(error)),
        atomic_directory(tmp_path / "whole", num_bytes=3) as staging,
    ):
        break_off(staging, error)
    assert list(tmp_path.iterdir()) == []


def test_the_rest_of_one_that_was_killed_is_replaced(tmp_path: Path):
    (tmp_path / ".whole.partial").mkdir()
    (tmp_path / ".whole.partial" / "old").write_bytes(b"old")
    with atomic_directory(tmp_path / "whole", num_bytes=3) as staging:
        write_file(staging / "new", b"new")
    assert [each.name for each in (tmp_path / "whole").iterdir()] == ["new"]


def test_what_is_there_is_never_written_over(tmp_path: Path):
    (tmp_path / "whole").mkdir()
    with pytest.raises(FileExistsError), atomic_directory(tmp_path / "whole", num_bytes=3):
        raise AssertionError("the block was entered")
    with pytest.raises(FileExistsError):
        write_file(Path(__file__), b"")


@pytest.mark.parametrize(("free", "fits"), [(150, True), (149, False)])
def test_what_does_not_fit_beside_the_reserve_is_refused_before_it_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, fits: bool
):
    with_free(monkeypatch, free)
    if fits:
        with atomic_directory(tmp_path / "whole", num_bytes=100, reserve_bytes=50):
            pass
        return
    with (
        pytest.raises(
            DiskFull, match=r"needs 0\.1 kB, and 0\.1 kB must stay free beside it; the disk has 0\.1 kB free"
        ),
        atomic_directory(tmp_path / "whole", num_bytes=100, reserve_bytes=50),
    ):
        raise AssertionError("the block was entered")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_what_is_needed_and_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    with_free(monkeypatch, 1_500_000)
    words = disk_error(OSError(number, os.strerror(number)), tmp_path, 2_500_000_000, 0)
    assert isinstance(words, DiskFull)
    assert "needs 2.5 GB; the disk has 1.5 MB free" in words.message


def test_a_directory_goes_with_the_file_that_vouches_for_it_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    directory = tmp_path / "gone"
    directory.mkdir()
    for name in ("manifest", "weights"):
        write_file(directory / name, b"")

    def refuse(path: Path) -> None:
        assert not (path / "manifest").exists()
        raise OSError(errno.EIO, "I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuse)
        assert not try_to_remove(directory, first="manifest")
    assert (directory / "weights").exists()
    assert try_to_remove(directory, first="manifest")
    assert not directory.exists()
    assert try_to_remove(directory, first="manifest")  # it is gone, which is all that was asked for
