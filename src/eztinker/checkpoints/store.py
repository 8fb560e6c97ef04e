"""Writing a checkpoint so that it is either whole or not there, and reading it only if every byte is as written."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from eztinker.checkpoints.manifest import FORMAT_VERSION, MANIFEST, Manifest, Part, decode_manifest, encode_manifest
from eztinker.errors import CheckpointDamaged, CheckpointNotFound
from eztinker.failpoints import reach
from eztinker.types import CheckpointKind, LoraSpec

Arrays = Mapping[str, np.ndarray]

ADAPTER_PART = "adapter.safetensors"
OPTIMIZER_PART = "optimizer.safetensors"
GRADIENT_PART = "gradient.safetensors"
"""Only in the snapshots from which a run is recovered."""


def tensors_part(arrays: Arrays) -> bytes:
    """The bytes of a safetensors file with these arrays."""
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

    Everything is written beside it, flushed to the disk and renamed, so a crash at any point leaves either nothing
    under this name or the whole checkpoint.

    Raises:
        FileExistsError: there is something under this name.
        OSError: the disk refused; what was written is removed.
    """
    if directory.exists():
        raise FileExistsError(f"{directory} exists already")
    directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    staging = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    manifest = Manifest(
        tinker_path=tinker_path,
        kind=kind,
        base_model=base_model,
        lora=lora,
        step=step,
        parts={name: Part(size_bytes=len(content), sha256=_sha256(content)) for name, content in parts.items()},
    )
    try:
        reach("save.mkdir")
        staging.mkdir(mode=0o700)
        for name, content in parts.items():
            _write_durably(staging / name, content)
        _write_durably(staging / MANIFEST, encode_manifest(manifest))
        _sync_directory(staging)
        reach("save.rename")
        staging.rename(directory)
    except OSError:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    _sync_directory(directory.parent)
    return manifest


def read_manifest(directory: Path) -> Manifest:
    """The manifest of the checkpoint in `directory`.

    Raises:
        CheckpointNotFound: there is none, so whatever lies there is not a whole checkpoint.
        CheckpointDamaged: it cannot be read, or was written by a newer version.
    """
    try:
        raw = (directory / MANIFEST).read_bytes()
    except FileNotFoundError as error:
        raise CheckpointNotFound("The checkpoint's files are gone from the server's data directory") from error
    try:
        manifest = decode_manifest(raw)
    except msgspec.DecodeError as error:
        raise CheckpointDamaged(f"The checkpoint's {MANIFEST} is damaged: {error}") from error
    if manifest.format_version > FORMAT_VERSION:
        raise CheckpointDamaged(
            f"The checkpoint has format {manifest.format_version}, this version reads up to {FORMAT_VERSION}; upgrade"
        )
    return manifest


def read_tensors(directory: Path, manifest: Manifest, part: str) -> dict[str, np.ndarray]:
    """The arrays of one part, after its size and hash were found to be those of the manifest.

    Raises:
        CheckpointDamaged: a byte is not as written; the file is named.
    """
    path, expected = directory / part, manifest.parts[part]
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointDamaged(f"{part} of {manifest.tinker_path} is gone; load another checkpoint") from error
    if len(content) != expected.size_bytes or _sha256(content) != expected.sha256:
        raise CheckpointDamaged(
            f"{part} of {manifest.tinker_path} is damaged: its hash is not the manifest's; load another checkpoint"
        )
    try:
        return load(content)
    except SafetensorError as error:
        raise CheckpointDamaged(f"{part} of {manifest.tinker_path} cannot be read: {error}") from error


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write_durably(path: Path, content: bytes) -> None:
    reach("save.open")
    with open(path, "xb") as file:
        reach("save.write")
        file.write(content)
        file.flush()
        reach("save.fsync")
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    """Flush the names in a directory: without it, a power cut may lose a file whose content was flushed."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        reach("save.fsync_directory")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
