"""Checkpoints on disk: written atomically, and read only if every byte is as written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from eztinker.checkpoints.disk import atomic_directory, try_to_remove, write_file
from eztinker.checkpoints.manifest import MANIFEST, Manifest, Part, decode_manifest, encode_manifest, sha256
from eztinker.errors import CheckpointDamaged, CheckpointNotFound
from eztinker.types import CheckpointKind, LoraSpec

Arrays = Mapping[str, np.ndarray]

ADAPTER_PART = "adapter.safetensors"
OPTIMIZER_PART = "optimizer.safetensors"
GRADIENT_PART = "gradient.safetensors"
"""Accumulated gradient, only in the snapshots from which a run is recovered."""

RESERVE_BYTES = 8 << 20
"""Bytes that every checkpoint leaves free on the disk, so that the operation log goes on when checkpoints cannot."""


def tensors_part(arrays: Arrays) -> bytes:
    """Serialize arrays as a safetensors file."""
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def write_checkpoint(
    directory: Path,
    parts: Mapping[str, bytes],
    *,
    tinker_path: str,
    kind: CheckpointKind,
    base_model: str,
    lora: LoraSpec,
    step: int,
) -> Manifest:
    """Write `parts` (file name to content) and their manifest to `directory`, which must not exist.

    Raises:
        FileExistsError: `directory` exists.
        DiskFull, DiskBroken: the disk is full or failed; nothing is left behind.
    """
    manifest = Manifest(
        tinker_path=tinker_path,
        kind=kind,
        base_model=base_model,
        lora=lora,
        step=step,
        parts={name: Part(size_bytes=len(content), sha256=sha256(content)) for name, content in parts.items()},
    )
    with atomic_directory(directory, num_bytes=manifest.size_bytes, reserve_bytes=RESERVE_BYTES) as staging:
        for name, content in parts.items():
            write_file(staging / name, content)
        write_file(staging / MANIFEST, encode_manifest(manifest))
    return manifest


def copy_checkpoint(source: Path, directory: Path) -> None:
    """Copy a checkpoint to `directory`, which must not exist, sharing the storage of its files.

    Either can then be removed without the other, since no file of a checkpoint is ever changed.

    Raises:
        CheckpointDamaged, CheckpointNotFound: `source` is not a complete checkpoint.
        DiskFull, DiskBroken: the disk is full or failed; nothing is left behind.
    """
    names = [*read_manifest(source).parts, MANIFEST]
    with atomic_directory(directory, num_bytes=0, reserve_bytes=RESERVE_BYTES) as staging:
        for name in names:
            _share(source / name, staging / name)


def remove_checkpoint(directory: Path) -> bool:
    """Remove the directory of a checkpoint, complete or not; False if the disk refuses, in which case retry later.

    The manifest is removed first, so that it never vouches for parts that are gone.
    """
    return try_to_remove(directory, first=MANIFEST)


def read_manifest(directory: Path) -> Manifest:
    """The manifest of the checkpoint in `directory`.

    Raises:
        CheckpointNotFound: there is no manifest, hence no complete checkpoint.
        CheckpointDamaged: the manifest differs from what was written, or a newer version has written it.
    """
    try:
        return decode_manifest((directory / MANIFEST).read_bytes())
    except FileNotFoundError as error:
        raise CheckpointNotFound("The checkpoint's files are gone from the server's data directory") from error


def verify_checkpoint(directory: Path) -> None:
    """Read every byte of the checkpoint in `directory` and verify its hashes.

    Raises:
        CheckpointNotFound: it has no manifest.
        CheckpointDamaged: a byte is not as written; the message names the file.
    """
    manifest = read_manifest(directory)
    for part in manifest.parts:
        _read_part(directory, manifest, part)


def verify_part(directory: Path, part: str) -> Path:
    """Verify the size and hash of one part; returns the path of its file.

    Raises:
        CheckpointNotFound: there is no such checkpoint, or no such part in it.
        CheckpointDamaged: a byte is not as written; the message names the file.
    """
    manifest = read_manifest(directory)
    if part not in manifest.parts:
        raise CheckpointNotFound(f"{manifest.tinker_path} has no file {part!r}")
    _read_part(directory, manifest, part)
    return directory / part


def read_tensors(directory: Path, manifest: Manifest, part: str) -> dict[str, np.ndarray]:
    """Arrays of one part, whose size and hash are verified.

    Raises:
        CheckpointDamaged: a byte is not as written; the message names the file.
    """
    content = _read_part(directory, manifest, part)
    try:
        return load(content)
    except SafetensorError as error:
        raise CheckpointDamaged(f"{part} of {manifest.tinker_path} cannot be read: {error}") from error


def _read_part(directory: Path, manifest: Manifest, part: str) -> bytes:
    try:
        content = (directory / part).read_bytes()
    except FileNotFoundError as error:
        raise CheckpointDamaged(f"{part} of {manifest.tinker_path} is gone") from error
    expected = manifest.parts[part]
    if len(content) != expected.size_bytes or sha256(content) != expected.sha256:
        raise CheckpointDamaged(f"{part} of {manifest.tinker_path} is damaged: its hash is not the manifest's")
    return content


def _share(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError as error:
        raise CheckpointDamaged(f"{source.name} of the checkpoint is gone") from error
    except OSError:  # a file system without hard links
        write_file(target, source.read_bytes())
