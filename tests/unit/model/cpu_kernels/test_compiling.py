"""How kernels are compiled, and what is said of a compiler that fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from eztinker.model.cpu_kernels import compiling
from tests.instruction_sets import ALL_SETS, has_compiler, name_of

with_compiler = pytest.mark.skipif(not has_compiler, reason="this machine has no C compiler")


@with_compiler
@pytest.mark.parametrize(("dtype", "instruction_set"), ALL_SETS, ids=[name_of(*each) for each in ALL_SETS])
def test_the_sources_compile_for_processors_other_than_this_one(
    tmp_path: Path, dtype: torch.dtype, instruction_set: compiling.InstructionSet
):
    command = compiling.compile_command(instruction_set, str(dtype).removeprefix("torch."))
    compiling.compile_library([*command, "-O1", "-Wall", "-Wextra", "-Werror"], tmp_path / "library.so")
    assert (tmp_path / "library.so").exists()


@pytest.mark.parametrize("named", ["cc -m64", "cc '-m64'", "  cc   -m64"])
def test_cc_is_read_as_a_shell_reads_it(monkeypatch: pytest.MonkeyPatch, named: str):
    monkeypatch.setattr(compiling.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setenv("CC", named)
    command = compiling.compile_command(compiling.AVX2, "bfloat16")
    assert command[:2] == ["cc", "-m64"]
    assert {"-mavx2", "-DBFLOAT16", "-fopenmp"} <= set(command)


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ("no-such-compiler -O2", "no C compiler (no-such-compiler)"),
        ("gcc '-m64", 'CC="gcc \'-m64" is not a command (No closing quotation)'),
    ],
)
def test_cc_that_is_no_compiler_is_the_reason(monkeypatch: pytest.MonkeyPatch, named: str, reason: str):
    monkeypatch.setenv("CC", named)
    with pytest.raises(compiling.NoCompiler) as error:
        compiling.compile_command(compiling.AVX2, "float32")
    assert str(error.value) == reason


def test_what_a_compiler_says_is_quoted_up_to_a_bound(tmp_path: Path):
    chatty = "import sys; sys.exit('\\n'.join(f'error {n}: ' + 'x' * 400 for n in range(1000)))"
    with pytest.raises(compiling.KernelsUnavailable) as error:
        compiling.compile_library([sys.executable, "-c", chatty], tmp_path / "library.so")
    text = str(error.value)
    assert "error 0: xxx" in text
    assert "error 1: xxx" in text
    assert text.endswith("...")
    assert len(text) < 800


def test_a_name_changes_with_the_options_and_the_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    names = {
        compiling.prebuilt_name(each, dtype) for dtype, sets in compiling.INSTRUCTION_SETS.items() for each in sets
    }
    assert len(names) == len(ALL_SETS)
    before = compiling.prebuilt_name(compiling.AVX2, "float32")
    (tmp_path / "more.c").write_text("int more;")
    monkeypatch.setattr(compiling, "SOURCES", [*compiling.SOURCES, tmp_path / "more.c"])
    assert compiling.prebuilt_name(compiling.AVX2, "float32") != before


@with_compiler
def test_a_library_for_wheels_names_no_library_of_openmp(tmp_path: Path):
    library = compiling.compile_for_wheel(compiling.AVX2, "float32", tmp_path)
    assert library == tmp_path / compiling.prebuilt_name(compiling.AVX2, "float32")
    assert b"GOMP_parallel" in library.read_bytes()
    assert b"gomp.so" not in library.read_bytes()


@with_compiler
def test_a_compiler_whose_openmp_is_not_that_of_torch_builds_no_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiling, "_OPTIONS", ("-O0", "-fPIC", "-fno-openmp"))
    monkeypatch.setattr(compiling, "SOURCES", [tmp_path / "empty.c"])
    (tmp_path / "empty.c").write_text("int nothing;")
    with pytest.raises(compiling.KernelsUnavailable, match="built with gcc"):
        compiling.compile_for_wheel(compiling.AVX2, "float32", tmp_path)


def test_compiling_takes_nothing_but_the_standard_library():
    code = f"import runpy, sys; runpy.run_path({compiling.__file__!r}); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-S", "-P", "-c", code], check=True)
