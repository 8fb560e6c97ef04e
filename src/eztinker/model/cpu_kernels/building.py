"""The kernels that this machine gets: the fastest instructions of its processor for which a library can be had.

A library comes with EZTinker, in a wheel for Linux on x86-64, or is compiled here on first use and kept. The one that
came is preferred, so that machines with and without a compiler, or with different ones, compute the same bits. Without
either, or on a processor with neither AVX512 nor AVX2, `cpu_kernels` is None and torch's own operators do the same
work, more slowly.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from dataclasses import dataclass

import torch

from eztinker.model.cpu_kernels import kernel_cache
from eztinker.model.cpu_kernels.compiling import (
    FOLDER,
    INSTRUCTION_SETS,
    PREBUILT,
    CompilerTooSlow,
    InstructionSet,
    KernelsUnavailable,
    NoCompiler,
    compile_command,
    compile_library,
    fingerprint,
    prebuilt_name,
)
from eztinker.model.cpu_kernels.operators import CpuKernels

log = logging.getLogger(__name__)

PREBUILT_FOLDER = FOLDER / PREBUILT


@dataclass(frozen=True, slots=True)
class Choice:
    """The kernels for one dtype."""

    kernels: CpuKernels | None
    name: str
    """The instruction set they use, or "none: " and why."""
    failures: tuple[str, ...] = ()
    """Why faster ones could not be had, where the machine should have them."""


def cpu_kernels(dtype: torch.dtype) -> CpuKernels | None:
    """The kernels for numbers of `dtype`, or None where this machine cannot have them."""
    return _chosen(dtype).kernels


def kernels_name(dtype: torch.dtype) -> str:
    """The instructions that the kernels for `dtype` use, such as "AVX2", or "none: " and why."""
    return _chosen(dtype).name


def kernel_failures(dtype: torch.dtype) -> tuple[str, ...]:
    """Why kernels for `dtype` in faster instructions could not be had; empty where nothing failed."""
    return _chosen(dtype).failures


def choose(dtype: torch.dtype) -> Choice:
    """The kernels in the fastest instructions that can be had; a failure of any is logged."""
    failures: list[str] = []
    for instruction_set in usable_sets(dtype):
        try:
            return Choice(kernels_in(instruction_set, dtype), instruction_set.name, tuple(failures))
        except NoCompiler as error:
            return Choice(None, f"none: {error}", tuple(failures))
        except (OSError, KernelsUnavailable, AttributeError) as error:
            failures.append(f"{instruction_set.name}: {error}")
            log.warning("CPU kernels for %s could not be had (%s); slower ones are used", instruction_set.name, error)
            if isinstance(error, CompilerTooSlow):  # it would be for the others too, and the engine has to start
                break
    return Choice(None, f"none: {failures[-1] if failures else _why_no_set(dtype)}", tuple(failures))


def _why_no_set(dtype: torch.dtype) -> str:
    """Why `usable_sets` is empty."""
    if _name(dtype) not in INSTRUCTION_SETS:
        return f"there are none for {_name(dtype)}"
    return (
        "this processor has neither AVX512 nor AVX2 with FMA" if processor_flags() else "they are for Linux on x86-64"
    )


_chosen = functools.cache(choose)


def usable_sets(dtype: torch.dtype) -> list[InstructionSet]:
    """The sets with kernels for `dtype` that this processor has, the fastest first."""
    return [each for each in INSTRUCTION_SETS.get(_name(dtype), ()) if each.needed <= processor_flags()]


def kernels_in(instruction_set: InstructionSet, dtype: torch.dtype) -> CpuKernels:
    """The kernels for numbers of `dtype` in the instructions named.

    Raises:
        OSError, KernelsUnavailable: they could not be compiled, or not be loaded, or may not run.
    """
    library = _prebuilt(instruction_set, dtype) or _compiled(instruction_set, dtype)
    if not library.may_run():
        raise KernelsUnavailable("the system does not let this process use the processor's tiles")
    return CpuKernels(library, dtype)


def _prebuilt(instruction_set: InstructionSet, dtype: torch.dtype) -> ctypes.CDLL | None:
    """The library that came with EZTinker, if one did that is made from the sources as they are."""
    path = PREBUILT_FOLDER / prebuilt_name(instruction_set, _name(dtype))
    if not path.exists():
        return None
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        log.warning("The CPU kernels that came with EZTinker cannot be loaded, and are compiled: %s", error)
        return None


def _compiled(instruction_set: InstructionSet, dtype: torch.dtype) -> ctypes.CDLL:
    command = compile_command(instruction_set, _name(dtype))
    name = f"cpu_kernels-{fingerprint(command)}.so"
    return kernel_cache.load(name, lambda target: compile_library(command, target))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def processor_flags() -> set[str]:
    """Instruction set extensions of the processor, in the words of /proc/cpuinfo; empty on other systems than Linux."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as cpuinfo:
            return set(next((line for line in cpuinfo if line.startswith(("flags", "Features"))), "").split())
    except OSError:
        return set()
