"""The kernels of the C files beside this one, compiled for this machine on first use and kept.

They are an extra: without a C compiler, or on a processor without AVX512, `cpu_kernels` is None and torch's own
operators do the same work, more slowly.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from eztinker.model.cpu_kernels.operators import CpuKernels

log = logging.getLogger(__name__)

SOURCES = [Path(__file__).with_name(name) for name in ("linear.c", "pointwise.c", "attention.c", "draw.c")]
HEADER = Path(__file__).with_name("numbers.h")
_COMPILE = [
    *("-O3", "-fopenmp", "-shared", "-fPIC", "-mprefer-vector-width=512", "-mfma"),
    *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"),
]
_COMPILE_FOR = {torch.float32: [], torch.bfloat16: ["-DBFLOAT16", "-mavx512bf16"]}
_NEEDED_FLAGS = {"avx512f", "avx512bw", "avx512vl", "avx512dq"}
"""As /proc/cpuinfo names them."""
_NEEDED_FLAGS_FOR = {torch.float32: _NEEDED_FLAGS, torch.bfloat16: _NEEDED_FLAGS | {"avx512_bf16"}}


@functools.cache
def cpu_kernels(dtype: torch.dtype) -> CpuKernels | None:
    """The kernels for numbers of `dtype`, or None where this machine cannot have them."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None or dtype not in _NEEDED_FLAGS_FOR or not _NEEDED_FLAGS_FOR[dtype] <= processor_flags():
        return None
    try:
        return CpuKernels(ctypes.CDLL(str(_compiled([compiler, *_COMPILE, *_COMPILE_FOR[dtype]]))), dtype)
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        log.warning("The CPU kernels could not be compiled (%s); torch's are used, which are slower", error)
        return None


def _compiled(compile_command: list[str]) -> Path:
    """The shared library of these sources, compiled unless an earlier process has done so."""
    texts = b"".join(path.read_bytes() for path in (HEADER, *SOURCES))
    fingerprint = hashlib.sha256(texts + " ".join(compile_command).encode()).hexdigest()[:16]
    library = _cache_directory() / f"cpu_kernels-{fingerprint}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=library.parent) as aside:
            made = Path(aside) / library.name
            command = [*compile_command, "-o", str(made), *map(str, SOURCES), "-lm"]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            made.replace(library)
    return library


def _cache_directory() -> Path:
    named = os.environ.get("EZTINKER_CACHE_DIR")
    return Path(named).expanduser().absolute() if named else Path.home() / ".cache" / "eztinker"


def processor_flags() -> set[str]:
    """What Linux says the processor can do; nothing on other systems."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as cpuinfo:
            return set(next((line for line in cpuinfo if line.startswith(("flags", "Features"))), "").split())
    except OSError:
        return set()
