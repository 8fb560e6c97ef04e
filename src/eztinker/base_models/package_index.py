"""Fetching one package from the Python package index, with the installed client and its settings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path


class PackageIndexError(Exception):
    """A package could not be fetched; the message is a clause that says why."""


def fetch_package(requirement: str, sha256: str, scratch: Path, *, on_bytes: Callable[[int], None]) -> Path:
    """Fetch the wheel of `requirement`, without its dependencies, and unpack it; returns its folder under `scratch`.

    The client refuses a wheel whose hash is not `sha256`, and runs none of its code.

    Args:
        on_bytes: called a few times a second with the number of bytes received.
    """
    target, arriving = scratch / "package", scratch / "arriving"
    arriving.mkdir()
    hashed = scratch / "requirements.txt"
    hashed.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
    command = [*_client(), "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["--no-cache-dir", "--target", str(target), "--requirement", str(hashed)]
    process = subprocess.Popen(
        command, env=os.environ | {"TMPDIR": str(arriving)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    output = _watch(process, arriving, on_bytes)
    if process.returncode != 0:
        raise PackageIndexError(_reason(output))
    return target


def _client() -> list[str]:
    """Command line of pip or, in an environment without pip, of uv."""
    if find_spec("pip"):
        return [sys.executable, "-P", "-m", "pip", "install", "--disable-pip-version-check", "--no-compile"]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--python", sys.executable]
    raise PackageIndexError("neither pip nor uv is installed")


def _watch(process: subprocess.Popen[str], arriving: Path, on_bytes: Callable[[int], None]) -> str:
    """Wait for `process` and return its output; it is terminated if we are interrupted."""
    with process:
        try:
            while True:
                try:
                    return process.communicate(timeout=0.25)[0]
                except subprocess.TimeoutExpired:
                    on_bytes(_size_of(arriving))
        except BaseException:
            process.terminate()
            raise


def _size_of(folder: Path) -> int:
    """Size of all files under `folder`, which another process is writing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                continue
    return total


def _reason(output: str) -> str:
    """The last line that pip (ERROR: ...) or uv (error: ..., × ...) marks as an error, else the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    marked = [line for line in lines if line.lower().startswith(("error: ", "× "))]
    chosen = (marked or lines or ["the package client gave no reason"])[-1]
    return chosen.split(" ", 1)[1] if marked else chosen
