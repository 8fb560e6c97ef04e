"""Which kernels a machine gets: those that came with EZTinker, those it compiles, or none and why."""

from __future__ import annotations

import logging
import shutil
import stat
from pathlib import Path

import pytest
import torch

from eztinker.model.cpu_kernels import building, compiling
from eztinker.model.cpu_kernels.compiling import AMX, AVX2, AVX512, AVX512_BF16, InstructionSet
from tests.instruction_sets import NAMES, USABLE


@pytest.mark.parametrize(
    ("flags", "dtype", "expected"),
    [
        (AMX.needed | AVX2.needed, torch.bfloat16, AMX),
        (AVX512_BF16.needed | AVX2.needed, torch.bfloat16, AVX512_BF16),
        (AVX512.needed | AVX2.needed, torch.bfloat16, AVX2),
        (AVX512.needed | AVX2.needed, torch.float32, AVX512),
        ({"avx2", "fma", "f16c"}, torch.float32, AVX2),
        ({"avx2"}, torch.float32, None),
        ({"avx2", "fma"}, torch.float16, None),
    ],
)
def test_the_fastest_instructions_that_the_processor_has_are_taken(
    monkeypatch: pytest.MonkeyPatch,
    flags: set[str],
    dtype: torch.dtype,
    expected: InstructionSet | None,
):
    monkeypatch.setattr(building, "processor_flags", lambda: flags)
    assert building.usable_sets(dtype)[:1] == ([expected] if expected else [])


UNKNOWN = InstructionSet("unheard-of", frozenset(), ("-mno-such-instructions",))


@pytest.fixture(params=USABLE[:1], ids=NAMES[:1])
def compiled(request: pytest.FixtureRequest) -> tuple[torch.dtype, InstructionSet]:
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
    monkeypatch: pytest.MonkeyPatch, cache: Path, compiled: tuple[torch.dtype, InstructionSet]
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
    compiled: tuple[torch.dtype, InstructionSet],
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
    assert [words in each for each in chosen.failures] == [True] * len(building.usable_sets(compiled[0]))
    assert not list(cache.iterdir())


@pytest.mark.usefixtures("cache")
def test_instructions_that_cannot_be_had_leave_it_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    compiled: tuple[torch.dtype, InstructionSet],
):
    dtype, instruction_set = compiled
    monkeypatch.setattr(building, "usable_sets", lambda _: [UNKNOWN, instruction_set])
    with caplog.at_level(logging.WARNING):
        chosen = building.choose(dtype)
    assert chosen.name == instruction_set.name
    (failure,) = chosen.failures
    assert failure.startswith("unheard-of: ")
    assert "-mno-such-instructions" in failure
    assert failure.partition(": ")[2] in caplog.text


@pytest.mark.usefixtures("cache")
def test_a_compiler_that_is_too_slow_is_not_asked_for_slower_instructions(
    monkeypatch: pytest.MonkeyPatch, compiled: tuple[torch.dtype, InstructionSet]
):
    dtype, instruction_set = compiled
    monkeypatch.setattr(compiling, "COMPILE_SECONDS", 0.1)
    monkeypatch.setattr(building, "usable_sets", lambda _: [instruction_set, UNKNOWN])
    monkeypatch.setenv("CC", "sh -c 'exec sleep 30'")
    chosen = building.choose(dtype)
    assert chosen.name == f"none: {instruction_set.name}: sh took longer than 0.1 s"
    assert len(chosen.failures) == 1


def test_kernels_are_compiled_once(
    monkeypatch: pytest.MonkeyPatch, cache: Path, compiled: tuple[torch.dtype, InstructionSet]
):
    assert building.choose(compiled[0]).kernels is not None
    (library,) = cache.iterdir()
    monkeypatch.setattr(building, "compile_library", None)  # a second compilation would fail
    assert building.choose(compiled[0]).kernels is not None
    assert list(cache.iterdir()) == [library]
    assert stat.S_IMODE(library.stat().st_mode) == 0o700


@pytest.fixture(scope="module")
def library_of_a_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dtype, instruction_set = USABLE[0]
    folder = tmp_path_factory.mktemp("wheel")
    return compiling.compile_for_wheel(instruction_set, str(dtype).removeprefix("torch."), folder)


@pytest.fixture
def prebuilt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, library_of_a_wheel: Path) -> Path:
    """The library that a wheel would carry for `compiled`, in the folder where it would lie."""
    folder = tmp_path / "prebuilt"
    folder.mkdir()
    monkeypatch.setattr(building, "PREBUILT_FOLDER", folder)
    return Path(shutil.copy(library_of_a_wheel, folder))


def loaded_libraries() -> set[str]:
    return {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}


def test_a_library_that_came_along_needs_no_compiler(
    monkeypatch: pytest.MonkeyPatch, cache: Path, compiled: tuple[torch.dtype, InstructionSet], prebuilt: Path
):
    dtype, instruction_set = compiled
    monkeypatch.setenv("CC", "no-such-compiler")
    chosen = building.choose(dtype)
    assert chosen.kernels is not None
    assert (chosen.name, chosen.failures) == (instruction_set.name, ())
    assert str(prebuilt) in loaded_libraries()
    assert list(cache.iterdir()) == [prebuilt.parent]


def test_a_library_that_came_along_is_preferred_to_compiling_and_gives_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, compiled: tuple[torch.dtype, InstructionSet], prebuilt: Path
):
    dtype, instruction_set = compiled
    weight, x = torch.randn(70, 300).to(dtype), torch.randn(9, 300).to(dtype)
    carried = building.kernels_in(instruction_set, dtype)
    assert str(prebuilt) in loaded_libraries()
    monkeypatch.setattr(building, "PREBUILT_FOLDER", prebuilt.parent / "empty")
    compiled_here = building.kernels_in(instruction_set, dtype)
    assert torch.equal(*(each.linear(x, each.pack_weight(weight)) for each in (carried, compiled_here)))


@pytest.mark.usefixtures("cache")
def test_a_library_of_other_sources_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compiled: tuple[torch.dtype, InstructionSet], prebuilt: Path
):
    changed = tmp_path / "changed.h"
    changed.write_text(compiling.HEADERS[0].read_text() + "\n")
    monkeypatch.setattr(compiling, "HEADERS", [changed, *compiling.HEADERS[1:]])
    monkeypatch.setenv("CC", "no-such-compiler")
    assert building.choose(compiled[0]).name == "none: no C compiler (no-such-compiler)"
    assert str(prebuilt) not in loaded_libraries()


def test_a_library_that_came_along_and_does_not_load_is_compiled(
    cache: Path, caplog: pytest.LogCaptureFixture, compiled: tuple[torch.dtype, InstructionSet], prebuilt: Path
):
    prebuilt.write_bytes(b"not a library")
    with caplog.at_level(logging.WARNING):
        assert building.choose(compiled[0]).kernels is not None
    assert str(prebuilt) in caplog.text
    assert len(list(cache.glob("cpu_kernels-*.so"))) == 1
