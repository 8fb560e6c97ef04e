"""A checkpoint is whole or not there, and a changed byte is found."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from eztinker.checkpoints import store
from eztinker.checkpoints.manifest import MANIFEST, Manifest
from eztinker.checkpoints.store import ADAPTER_PART, read_manifest, read_tensors, tensors_part, write_checkpoint
from eztinker.errors import CheckpointDamaged, CheckpointNotFound
from eztinker.types import CheckpointKind, LoraSpec

ARRAYS = {
    "a.lora_A.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a.lora_B.weight": np.ones((2, 3), np.float32),
}
PATH = "tinker://s:train:0/weights/step-1"


def write(directory: Path) -> Manifest:
    return write_checkpoint(
        directory,
        {ADAPTER_PART: tensors_part(ARRAYS)},
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
    assert manifest.size_bytes == (tmp_path / "c" / ADAPTER_PART).stat().st_size


def test_an_existing_checkpoint_is_never_overwritten(tmp_path: Path):
    write(tmp_path / "c")
    with pytest.raises(FileExistsError):
        write(tmp_path / "c")


@pytest.mark.parametrize("nth_call", range(5))
def test_a_disk_that_refuses_any_flush_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth_call: int
):
    calls = 0
    fsync = store.os.fsync

    def refusing(descriptor: int) -> None:
        nonlocal calls
        if calls == nth_call:
            raise OSError(28, "No space left on device")
        calls += 1
        fsync(descriptor)

    monkeypatch.setattr(store.os, "fsync", refusing)
    if nth_call < 3:  # the part, the manifest, their directory; after the rename only its name is left to flush
        with pytest.raises(OSError, match="No space"):
            write(tmp_path / "c")
        assert list(tmp_path.iterdir()) == []
    elif nth_call == 3:
        with pytest.raises(OSError, match="No space"):
            write(tmp_path / "c")
        assert read_manifest(tmp_path / "c").step == 11
    else:
        write(tmp_path / "c")
        assert calls == 4


def test_without_a_manifest_there_is_no_checkpoint(tmp_path: Path):
    write(tmp_path / "c")
    (tmp_path / "c" / MANIFEST).unlink()
    with pytest.raises(CheckpointNotFound):
        read_manifest(tmp_path / "c")


def test_every_flipped_bit_is_found_and_the_file_named(tmp_path: Path):
    manifest = write(tmp_path / "c")
    part = tmp_path / "c" / ADAPTER_PART
    content = part.read_bytes()
    generator = random.Random(0)
    for _ in range(100):
        damaged = bytearray(content)
        damaged[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        part.write_bytes(damaged)
        with pytest.raises(CheckpointDamaged, match=ADAPTER_PART):
            read_tensors(tmp_path / "c", manifest, ADAPTER_PART)


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
