"""The kernels of the C files beside this one, compiled for this machine on first use and kept.

They are an extra: without a C compiler, or on a processor with neither AVX512 nor AVX2, `cpu_kernels` is None and
torch's own operators do the same work, more slowly.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

from eztinker.model.cpu_kernels.library_cache import load
from eztinker.model.cpu_kernels.operators import CpuKernels

log = logging.getLogger(__name__)

SOURCES, HEADERS = (sorted(Path(__file__).parent.glob(pattern)) for pattern in ("*.c", "*.h"))
_COMPILE = ["-O3", "-fopenmp", "-shared", "-fPIC"]
_COMPILE_SECONDS = 120
_COMPLAINT_LINES = 3
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


class KernelsUnavailable(Exception):
    """This machine cannot have them; the message says why."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The kernels for one dtype."""

    kernels: CpuKernels | None
    name: str
    """Of their set of instructions, or "none: " and why."""


def cpu_kernels(dtype: torch.dtype) -> CpuKernels | None:
    """The kernels for numbers of `dtype`, or None where this machine cannot have them."""
    return _chosen(dtype).kernels


def kernels_name(dtype: torch.dtype) -> str:
    """The instructions that the kernels for `dtype` use, such as "AVX2", or "none: " and why."""
    return _chosen(dtype).name


def choose(dtype: torch.dtype) -> Choice:
    """The kernels in the fastest instructions that can be had; a failure of any is logged."""
    try:
        if usable_sets(dtype) and shutil.which(_compiler()[0]) is None:
            return Choice(None, f"none: no C compiler ({_compiler()[0]})")
    except KernelsUnavailable as error:
        return Choice(None, f"none: {error}")
    reason = _why_no_set(dtype)
    for instruction_set in usable_sets(dtype):
        try:
            return Choice(kernels_in(instruction_set, dtype), instruction_set.name)
        except (OSError, KernelsUnavailable, AttributeError) as error:
            reason = f"{instruction_set.name}: {error}"
            log.warning("CPU kernels for %s could not be had (%s); slower ones are used", instruction_set.name, error)
    return Choice(None, f"none: {reason}")


def _why_no_set(dtype: torch.dtype) -> str:
    """Why there is nothing to try, where there is not."""
    if dtype not in INSTRUCTION_SETS:
        return f"there are none for {str(dtype).removeprefix('torch.')}"
    return (
        "this processor has neither AVX512 nor AVX2 with FMA" if processor_flags() else "they are for Linux on x86-64"
    )


_chosen = functools.cache(choose)


def usable_sets(dtype: torch.dtype) -> list[InstructionSet]:
    """Those with kernels for `dtype` that this processor has, the fastest first."""
    return [each for each in INSTRUCTION_SETS.get(dtype, ()) if each.needed <= processor_flags()]


def kernels_in(instruction_set: InstructionSet, dtype: torch.dtype) -> CpuKernels:
    """The kernels for numbers of `dtype` in the instructions named.

    Raises:
        OSError, KernelsUnavailable: they could not be compiled, or not be loaded, or may not run.
    """
    command = compile_command(instruction_set, dtype)
    library = load(f"cpu_kernels-{_fingerprint(command)}.so", lambda target: _compile(command, target))
    if not library.may_run():
        raise KernelsUnavailable("the system does not let this process use the processor's tiles")
    return CpuKernels(library, dtype)


def compile_command(instruction_set: InstructionSet, dtype: torch.dtype) -> list[str]:
    """How the sources are compiled, without their names and the library's."""
    return [*_compiler(), *_COMPILE, *instruction_set.options, *_COMPILE_FOR[dtype]]


def _compiler() -> list[str]:
    """CC as a shell would read it, options included."""
    named = os.environ.get("CC", "")
    try:
        return shlex.split(named) or ["cc"]
    except ValueError as error:
        raise KernelsUnavailable(f"CC={named!r} is not a command ({error})") from error


def _compile(command: list[str], target: Path) -> None:
    try:
        done = subprocess.run(
            [*command, "-o", str(target), *map(str, SOURCES), "-lm"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_COMPILE_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise KernelsUnavailable(f"{command[0]} took longer than {_COMPILE_SECONDS} s") from error
    except OSError as error:
        raise KernelsUnavailable(f"{command[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        raise KernelsUnavailable(f"{command[0]} ended with {done.returncode}: {_complaint(done.stderr or done.stdout)}")


def _complaint(output: str) -> str:
    """The first lines of a compiler's output that speak of an error, or the last ones if none does."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = list(dict.fromkeys(line for line in lines if "error" in line.lower()))
    return " | ".join(errors[:_COMPLAINT_LINES] or lines[-_COMPLAINT_LINES:]) or "it said nothing"


def _fingerprint(command: list[str]) -> str:
    """A hash of sources and command: machines that share a home directory each find their own library."""
    texts = b"".join(path.read_bytes() for path in (*HEADERS, *SOURCES))
    return hashlib.sha256(texts + " ".join(command).encode()).hexdigest()[:16]


def processor_flags() -> set[str]:
    """What Linux says the processor can do; nothing on other systems."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as cpuinfo:
            return set(next((line for line in cpuinfo if line.startswith(("flags", "Features"))), "").split())
    except OSError:
        return set()
