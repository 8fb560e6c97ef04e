"""A checkpoint is whole or not there, and a changed byte is found."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from eztinker.checkpoints import checkpoint_files, disk
from eztinker.checkpoints.checkpoint_files import (
    ADAPTER_PART,
    OPTIMIZER_PART,
    copy_checkpoint,
    read_manifest,
    read_tensors,
    tensors_part,
    verify_checkpoint,
    write_checkpoint,
)
from eztinker.checkpoints.manifest import MANIFEST, Manifest
from eztinker.errors import CheckpointDamaged, CheckpointNotFound, DiskFull
from eztinker.types import CheckpointKind, LoraSpec

ARRAYS = {
    "a.lora_A.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a.lora_B.weight": np.ones((2, 3), np.float32),
}
MOMENTS = {f"exp_avg.{name}": array / 2 for name, array in ARRAYS.items()}
PATH = "tinker://s:train:0/weights/step-1"


def write(directory: Path) -> Manifest:
    return write_checkpoint(
        directory,
        {ADAPTER_PART: tensors_part(ARRAYS), OPTIMIZER_PART: tensors_part(MOMENTS)},
        tinker_path=PATH,
        kind=CheckpointKind.TRAINING,
        base_model="tiny",
        lora=LoraSpec(rank=3, seed=7),
        step=11,
    )


def test_what_was_written_is_read(tmp_path: Path):
    written = write(tmp_path / "c")
    manifest = read_manifest(tmp_path / "c")
    assert manifest == written
    assert (manifest.step, manifest.lora.rank, manifest.tinker_path) == (11, 3, PATH)
    arrays = read_tensors(tmp_path / "c", manifest, ADAPTER_PART)
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
    parts = [path for path in (tmp_path / "c").iterdir() if path.name != MANIFEST]
    assert manifest.size_bytes == sum(path.stat().st_size for path in parts)


def test_an_existing_checkpoint_is_never_overwritten(tmp_path: Path):
    write(tmp_path / "c")
    with pytest.raises(FileExistsError):
        write(tmp_path / "c")


@pytest.mark.parametrize("nth_call", range(5))
def test_a_disk_that_refuses_any_flush_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth_call: int
):
    calls = 0
    fsync = disk.os.fsync

    def refusing(descriptor: int) -> None:
        nonlocal calls
        if calls == nth_call:
            raise OSError(28, "No space left on device")
        calls += 1
        fsync(descriptor)

    monkeypatch.setattr(disk.os, "fsync", refusing)
    with pytest.raises(DiskFull, match="No space"):
        write(tmp_path / "c")
    assert list(tmp_path.iterdir()) == []
    nth_call = 5  # two parts, the manifest, their directory and its own were flushed
    calls = 0
    write(tmp_path / "c")
    assert calls == 5


def test_a_checkpoint_that_does_not_fit_is_refused_before_a_byte_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def disk_usage(path: Path) -> SimpleNamespace:
        assert path == tmp_path
        return SimpleNamespace(free=checkpoint_files.RESERVE_BYTES + 100)

    monkeypatch.setattr(disk.shutil, "disk_usage", disk_usage)
    with pytest.raises(
        DiskFull, match=r"needs 0\.5 kB, and 8\.4 MB must stay free beside it; the disk has 8\.4 MB free"
    ):
        write(tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_without_a_manifest_there_is_no_checkpoint(tmp_path: Path):
    write(tmp_path / "c")
    (tmp_path / "c" / MANIFEST).unlink()
    with pytest.raises(CheckpointNotFound):
        read_manifest(tmp_path / "c")


def test_a_thousand_flipped_bits_are_all_found_and_the_file_named(tmp_path: Path):
    write(tmp_path / "c")
    files = {path: path.read_bytes() for path in (tmp_path / "c").iterdir()}
    assert {path.name for path in files} == {ADAPTER_PART, OPTIMIZER_PART, MANIFEST}
    verify_checkpoint(tmp_path / "c")
    bits = [(path, place, bit) for path, content in files.items() for place in range(len(content)) for bit in range(8)]
    for path, place, bit in random.Random(0).sample(bits, 1000):
        damaged = bytearray(files[path])
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        with pytest.raises(CheckpointDamaged, match=path.name):
            verify_checkpoint(tmp_path / "c")
        path.write_bytes(files[path])
    verify_checkpoint(tmp_path / "c")


def test_a_part_that_is_gone_is_named(tmp_path: Path):
    write(tmp_path / "c")
    (tmp_path / "c" / OPTIMIZER_PART).unlink()
    with pytest.raises(CheckpointDamaged, match=f"{OPTIMIZER_PART} of {PATH} is gone"):
        verify_checkpoint(tmp_path / "c")


def test_a_copy_shares_its_bytes_and_outlives_the_original(tmp_path: Path):
    write(tmp_path / "c")
    copy_checkpoint(tmp_path / "c", tmp_path / "copy")
    assert (tmp_path / "copy" / ADAPTER_PART).samefile(tmp_path / "c" / ADAPTER_PART)
    shutil.rmtree(tmp_path / "c")
    verify_checkpoint(tmp_path / "copy")
    assert read_manifest(tmp_path / "copy").tinker_path == PATH


def test_a_copy_works_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def unsupported(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    write(tmp_path / "c")
    monkeypatch.setattr(checkpoint_files.os, "link", unsupported)
    copy_checkpoint(tmp_path / "c", tmp_path / "copy")
    verify_checkpoint(tmp_path / "copy")
    assert not (tmp_path / "copy" / ADAPTER_PART).samefile(tmp_path / "c" / ADAPTER_PART)


def test_a_copy_of_half_a_checkpoint_leaves_nothing(tmp_path: Path):
    write(tmp_path / "c")
    (tmp_path / "c" / ADAPTER_PART).unlink()
    with pytest.raises(CheckpointDamaged, match=ADAPTER_PART):
        copy_checkpoint(tmp_path / "c", tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_damaged_or_newer_manifest_says_so(tmp_path: Path):
    write(tmp_path / "c")
    path = tmp_path / "c" / MANIFEST
    whole = path.read_text()
    path.write_text(whole[:-20])
    with pytest.raises(CheckpointDamaged, match="damaged"):
        read_manifest(tmp_path / "c")
    path.write_text(whole.replace('"format_version": 1', '"format_version": 99'))
    with pytest.raises(CheckpointDamaged, match="upgrade"):
        read_manifest(tmp_path / "c")
