"""Which kernels a machine gets, and how they are compiled."""

from __future__ import annotations

import logging
import stat
import subprocess
from pathlib import Path

import pytest
import torch

from eztinker.model.cpu_kernels import building
from tests.instruction_sets import ALL_SETS, NAMES, USABLE, has_compiler, name_of


@pytest.mark.parametrize(
    ("flags", "dtype", "expected"),
    [
        (building.AMX.needed | building.AVX2.needed, torch.bfloat16, building.AMX),
        (building.AVX512_BF16.needed | building.AVX2.needed, torch.bfloat16, building.AVX512_BF16),
        (building.AVX512.needed | building.AVX2.needed, torch.bfloat16, building.AVX2),
        (building.AVX512.needed | building.AVX2.needed, torch.float32, building.AVX512),
        ({"avx2", "fma", "f16c"}, torch.float32, building.AVX2),
        ({"avx2"}, torch.float32, None),
        ({"avx2", "fma"}, torch.float16, None),
    ],
)
def test_the_fastest_instructions_that_the_processor_has_are_taken(
    monkeypatch: pytest.MonkeyPatch,
    flags: set[str],
    dtype: torch.dtype,
    expected: building.InstructionSet | None,
):
    monkeypatch.setattr(building, "processor_flags", lambda: flags)
    assert building.usable_sets(dtype)[:1] == ([expected] if expected else [])


@pytest.mark.skipif(not has_compiler, reason="this machine has no C compiler")
@pytest.mark.parametrize(("dtype", "instruction_set"), ALL_SETS, ids=[name_of(*each) for each in ALL_SETS])
def test_the_sources_compile_for_processors_other_than_this_one(
    tmp_path: Path, dtype: torch.dtype, instruction_set: building.InstructionSet
):
    command = [*building.compile_command(instruction_set, dtype), "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*command, "-o", str(tmp_path / "library.so"), *map(str, building.SOURCES)], check=True)


@pytest.fixture(params=USABLE[:1], ids=NAMES[:1])
def compiled(request: pytest.FixtureRequest) -> tuple[torch.dtype, building.InstructionSet]:
    """One dtype and set of instructions: compiling takes seconds."""
    return request.param


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty one."""
    monkeypatch.setenv("EZTINKER_CACHE_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("cache")
def test_a_machine_without_a_compiler_has_none_and_nobody_complains(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, compiled: tuple[torch.dtype, object]
):
    monkeypatch.setenv("CC", "no-such-compiler -O2")
    assert building.choose(compiled[0]) == building.Choice(None, "none: no C compiler (no-such-compiler)")
    assert not caplog.records


@pytest.mark.parametrize(
    ("flags", "dtype", "reason"),
    [
        ({"sse2", "avx"}, torch.float32, "none: this processor has neither AVX512 nor AVX2 with FMA"),
        ({"avx2", "fma"}, torch.float64, "none: there are none for float64"),
        (set[str](), torch.float32, "none: they are for Linux on x86-64"),
    ],
)
def test_a_machine_that_cannot_have_them_says_why(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], dtype: torch.dtype, reason: str
):
    monkeypatch.setattr(building, "processor_flags", lambda: flags)
    assert building.choose(dtype) == building.Choice(None, reason)


def test_a_command_with_options_is_a_compiler_too(
    monkeypatch: pytest.MonkeyPatch, cache: Path, compiled: tuple[torch.dtype, building.InstructionSet]
):
    dtype, instruction_set = compiled
    monkeypatch.setenv("CC", "cc -m64 '-D NAME=a b'")
    chosen = building.choose(dtype)
    assert chosen.kernels is not None
    assert chosen.name == instruction_set.name
    assert len(list(cache.iterdir())) == 1


@pytest.mark.usefixtures("cache")
def test_cc_that_no_shell_could_read_is_the_reason(
    monkeypatch: pytest.MonkeyPatch, compiled: tuple[torch.dtype, object]
):
    monkeypatch.setenv("CC", "gcc '-m64")
    assert building.choose(compiled[0]).name == 'none: CC="gcc \'-m64" is not a command (No closing quotation)'


@pytest.mark.parametrize(
    ("compiler", "words"),
    [
        ("cc -include no_such_header.h", "no_such_header.h: No such file or directory"),
        ("false", "false ended with 1: it said nothing"),
        ("sh -c 'echo first >&2; echo no tongue for this >&2; exit 3'", "sh ended with 3: first | no tongue for this"),
    ],
)
def test_a_compiler_that_fails_is_quoted_and_done_without(
    monkeypatch: pytest.MonkeyPatch,
    cache: Path,
    caplog: pytest.LogCaptureFixture,
    compiled: tuple[torch.dtype, building.InstructionSet],
    compiler: str,
    words: str,
):
    monkeypatch.setenv("CC", compiler)
    with caplog.at_level(logging.WARNING):
        chosen = building.choose(compiled[0])
    assert chosen.kernels is None
    assert chosen.name.startswith("none: ")
    assert words in chosen.name
    assert words in caplog.text
    assert not list(cache.iterdir())


@pytest.mark.usefixtures("cache")
def test_instructions_that_cannot_be_had_leave_it_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    compiled: tuple[torch.dtype, building.InstructionSet],
):
    dtype, instruction_set = compiled
    unknown = building.InstructionSet("unheard-of", frozenset(), ("-mno-such-instructions",))
    monkeypatch.setattr(building, "usable_sets", lambda _: [unknown, instruction_set])
    with caplog.at_level(logging.WARNING):
        assert building.choose(dtype).name == instruction_set.name
    assert "unheard-of" in caplog.text
    assert "-mno-such-instructions" in caplog.text


def test_kernels_are_compiled_once(
    monkeypatch: pytest.MonkeyPatch, cache: Path, compiled: tuple[torch.dtype, building.InstructionSet]
):
    assert building.choose(compiled[0]).kernels is not None
    (library,) = cache.iterdir()
    monkeypatch.setattr(building.subprocess, "run", None)  # a second compilation would fail
    assert building.choose(compiled[0]).kernels is not None
    assert list(cache.iterdir()) == [library]
    assert stat.S_IMODE(library.stat().st_mode) == 0o700
