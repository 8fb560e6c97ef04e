"""The instructions that the C files beside this module can be compiled for, and how that is done.

Imports the standard library alone and no module of this package, for `hatch_build.py` loads this file where a wheel is
built, which takes neither torch nor EZTinker.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCES, HEADERS = (sorted(FOLDER.glob(pattern)) for pattern in ("*.c", "*.h"))
PREBUILT = "prebuilt"
"""The folder beside the sources in which a wheel carries libraries."""

_OPTIONS = ("-O3", "-fopenmp", "-fPIC")
_DTYPE_OPTIONS = {"float32": (), "bfloat16": ("-DBFLOAT16",)}
COMPILE_SECONDS = 240
"""Longest time that a compiler may take for one library.

An idle core of a 2024 server takes 3 seconds, a busy one 15, so this is enough for a machine fifty times slower: an
emulated processor, or a container that gets a small part of a core. An engine compiles two libraries in turn before it
says that it is ready, and one that says nothing for 600 seconds (`engine_stall_seconds`) is killed.
"""
_QUOTED_LINES, _QUOTED_CHARACTERS = 3, 600


@dataclass(frozen=True, slots=True)
class InstructionSet:
    """Instructions that the sources have a header for."""

    name: str
    needed: frozenset[str]
    """Flags that a processor must have, by their names in /proc/cpuinfo."""
    options: tuple[str, ...]
    """Options by which the compiler uses these instructions."""


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
INSTRUCTION_SETS = {"float32": (AVX512, AVX2), "bfloat16": (AMX, AVX512_BF16, AVX2)}
"""The sets that there are kernels in, by dtype, the fastest first."""


class KernelsUnavailable(Exception):
    """Kernels cannot be had; the message says why."""


class NoCompiler(KernelsUnavailable):
    """There is no compiler to try."""


class CompilerTooSlow(KernelsUnavailable):
    """The compiler did not end in time."""


def compile_command(instruction_set: InstructionSet, dtype: str) -> list[str]:
    """The compiler and its options, without inputs and output.

    Raises:
        NoCompiler: CC names none.
    """
    return [*_compiler(), *_options(instruction_set, dtype)]


def compile_library(command: list[str], target: Path) -> None:
    """Compile and link for this machine.

    Raises:
        KernelsUnavailable: the compiler failed; the message quotes it.
    """
    _run([*command, "-shared", "-o", str(target), *map(str, SOURCES), "-lm"])


def compile_for_wheel(instruction_set: InstructionSet, dtype: str, folder: Path) -> Path:
    """Compile a library that any machine can load once torch is imported; gives its path in `folder`.

    It names no library of OpenMP: its calls are bound to those of torch, which brings its own under a name that differs
    between builds of torch, while the machine may have none.

    Raises:
        KernelsUnavailable: there is no compiler, or it failed, or it is none that calls GNU's OpenMP as torch does.
    """
    target = folder / prebuilt_name(instruction_set, dtype)
    with tempfile.TemporaryDirectory() as objects:
        _run([*compile_command(instruction_set, dtype), "-c", *map(str, SOURCES)], objects)
        _run([*_compiler(), "-shared", "-s", "-o", str(target), *map(str, sorted(Path(objects).iterdir())), "-lm"])
    if b"GOMP_parallel" not in target.read_bytes():
        raise KernelsUnavailable("wheels are built with gcc: the OpenMP of other compilers is not the one in torch")
    return target


def prebuilt_name(instruction_set: InstructionSet, dtype: str) -> str:
    """The file name of a wheel's library, which changes with the sources and options that it is made from."""
    return f"{dtype}-{instruction_set.name.lower()}-{fingerprint(_options(instruction_set, dtype))}.so"


def fingerprint(command: list[str]) -> str:
    """A hash of sources and command: machines that share a home directory each find their own library."""
    texts = b"".join(path.read_bytes() for path in (*HEADERS, *SOURCES))
    return hashlib.sha256(texts + " ".join(command).encode()).hexdigest()[:16]


def _options(instruction_set: InstructionSet, dtype: str) -> list[str]:
    return [*_OPTIONS, *instruction_set.options, *_DTYPE_OPTIONS[dtype]]


def _compiler() -> list[str]:
    """CC as a shell would read it, options included."""
    named = os.environ.get("CC", "")
    try:
        command = shlex.split(named) or ["cc"]
    except ValueError as error:
        raise NoCompiler(f"CC={named!r} is not a command ({error})") from error
    if shutil.which(command[0]) is None:
        raise NoCompiler(f"no C compiler ({command[0]})")
    return command


def _run(command: list[str], folder: str | None = None) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, encoding="utf-8", errors="replace", timeout=COMPILE_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise CompilerTooSlow(f"{command[0]} took longer than {COMPILE_SECONDS} s") from error
    except OSError as error:
        raise KernelsUnavailable(f"{command[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        raise KernelsUnavailable(f"{command[0]} ended with {done.returncode}: {_quoted(done.stderr or done.stdout)}")


def _quoted(output: str) -> str:
    """The first lines of a compiler's output that speak of an error, or the last ones if none does."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = list(dict.fromkeys(line for line in lines if "error" in line.lower()))
    quoted = " | ".join(errors[:_QUOTED_LINES] or lines[-_QUOTED_LINES:]) or "it said nothing"
    return quoted if len(quoted) <= _QUOTED_CHARACTERS else f"{quoted[:_QUOTED_CHARACTERS]}..."
