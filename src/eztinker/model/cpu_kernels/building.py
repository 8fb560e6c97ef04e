"""The kernels of the C files beside this one, compiled for this machine on first use and kept.

They are an extra: without a C compiler, or on a processor with neither AVX512 nor AVX2, `cpu_kernels` is None and
torch's own operators do the same work, more slowly.
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
from dataclasses import dataclass
from pathlib import Path

import torch

from eztinker.model.cpu_kernels.operators import CpuKernels

log = logging.getLogger(__name__)

SOURCES, HEADERS = (sorted(Path(__file__).parent.glob(pattern)) for pattern in ("*.c", "*.h"))
_COMPILE = ["-O3", "-fopenmp", "-shared", "-fPIC"]
_COMPILE_FOR = {torch.float32: [], torch.bfloat16: ["-DBFLOAT16"]}


@dataclass(frozen=True, slots=True)
class InstructionSet:
    """What a processor can do that the sources have a header for."""

    name: str
    needed: frozenset[str]
    """As /proc/cpuinfo names them."""
    options: tuple[str, ...]
    """Of the compiler."""


AVX2 = InstructionSet("AVX2", frozenset({"avx2", "fma"}), ("-mavx2", "-mfma"))
AVX512 = InstructionSet(
    "AVX512",
    frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq"}),
    ("-mprefer-vector-width=512", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"),
)
AVX512_BF16 = InstructionSet("AVX512-BF16", AVX512.needed | {"avx512_bf16"}, (*AVX512.options, "-mavx512bf16"))
AMX = InstructionSet(
    "AMX", AVX512_BF16.needed | {"amx_tile", "amx_bf16"}, (*AVX512_BF16.options, "-mamx-tile", "-mamx-bf16")
)
INSTRUCTION_SETS = {torch.float32: [AVX512, AVX2], torch.bfloat16: [AMX, AVX512_BF16, AVX2]}
"""Those with kernels for a dtype, the fastest first."""


@functools.cache
def cpu_kernels(dtype: torch.dtype) -> CpuKernels | None:
    """The kernels for numbers of `dtype`, or None where this machine cannot have them."""
    if shutil.which(_compiler()) is None:
        return None
    for instruction_set in usable_sets(dtype):
        try:
            return kernels_in(instruction_set, dtype)
        except (OSError, subprocess.SubprocessError, AttributeError) as error:
            log.warning("CPU kernels for %s could not be had (%s); slower ones are used", instruction_set.name, error)
    return None


def usable_sets(dtype: torch.dtype) -> list[InstructionSet]:
    """Those with kernels for `dtype` that this processor has, the fastest first."""
    return [each for each in INSTRUCTION_SETS.get(dtype, ()) if each.needed <= processor_flags()]


def kernels_in(instruction_set: InstructionSet, dtype: torch.dtype) -> CpuKernels:
    """The kernels for numbers of `dtype` in the instructions named.

    Raises:
        OSError, subprocess.SubprocessError: they could not be compiled, or not be loaded, or may not run.
    """
    library = ctypes.CDLL(str(_compiled(compile_command(instruction_set, dtype))))
    if not library.may_run():
        raise OSError("the system does not let this process use the processor's tiles")
    return CpuKernels(library, dtype)


def compile_command(instruction_set: InstructionSet, dtype: torch.dtype) -> list[str]:
    """How the sources are compiled, without their names and the library's."""
    return [_compiler(), *_COMPILE, *instruction_set.options, *_COMPILE_FOR[dtype]]


def _compiler() -> str:
    return os.environ.get("CC", "cc")


def _compiled(command: list[str]) -> Path:
    """The shared library of these sources, compiled unless an earlier process has done so.

    Its name holds a hash of sources and command: machines that share a home directory each find their own.
    """
    texts = b"".join(path.read_bytes() for path in (*HEADERS, *SOURCES))
    fingerprint = hashlib.sha256(texts + " ".join(command).encode()).hexdigest()[:16]
    library = _cache_directory() / f"cpu_kernels-{fingerprint}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=library.parent) as aside:
            made = Path(aside) / library.name
            subprocess.run(
                [*command, "-o", str(made), *map(str, SOURCES), "-lm"], check=True, capture_output=True, timeout=60
            )
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
