"""Compiled libraries are loaded only from a directory and a file that no other user could have written."""

from __future__ import annotations

import logging
import os
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from eztinker.model.cpu_kernels import kernel_cache
from tests.instruction_sets import has_compiler

pytestmark = pytest.mark.skipif(not has_compiler, reason="this machine has no C compiler")
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    directory = tmp_path / "cache"
    monkeypatch.setenv("EZTINKER_CACHE_DIR", str(directory))
    return directory


@pytest.fixture
def name() -> str:
    """Another one for each test: the dynamic linker loads a name once."""
    return f"answer-{uuid.uuid4().hex}.so"


def answering(number: int) -> Callable[[Path], None]:
    """Compile a library whose function `answer` gives `number`."""

    def compile_to(target: Path) -> None:
        source = f"int answer(void) {{ return {number}; }}".encode()
        subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(target)], input=source, check=True)

    return compile_to


def never(target: Path) -> None:
    raise AssertionError("it was to come from the cache")


def put(directory: Path, name: str, number: int) -> Path:
    """A library that lies in `directory` already."""
    directory.mkdir(mode=0o700, exist_ok=True)
    answering(number)(directory / name)
    (directory / name).chmod(0o700)
    return directory / name


def test_a_library_is_compiled_once_and_open_to_its_owner_alone(cache: Path, name: str):
    before = os.umask(0)
    try:
        assert kernel_cache.load(name, answering(1)).answer() == 1
    finally:
        os.umask(before)
    assert kernel_cache.load(name, never).answer() == 1
    assert cache.stat().st_mode & 0o777 == 0o700
    assert (cache / name).stat().st_mode & 0o777 == 0o700
    assert os.listdir(cache) == [name]


def test_one_that_lies_there_is_loaded(cache: Path, name: str):
    put(cache, name, 2)
    assert kernel_cache.load(name, never).answer() == 2


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o606])
def test_one_that_others_may_write_is_compiled_anew(
    cache: Path, name: str, mode: int, caplog: pytest.LogCaptureFixture
):
    put(cache, name, 666).chmod(mode)
    assert kernel_cache.load(name, answering(1)).answer() == 1
    assert f"other users may write {cache / name} (mode {mode:o}; run: chmod go-w {cache / name})" in caplog.text
    assert kernel_cache.load(name, never).answer() == 1


@as_root
def test_one_of_another_user_is_compiled_anew(cache: Path, name: str, caplog: pytest.LogCaptureFixture):
    os.chown(put(cache, name, 666), NOBODY, NOBODY)
    assert kernel_cache.load(name, answering(1)).answer() == 1
    assert f"{cache / name} belongs to another user (id {NOBODY})" in caplog.text


def test_a_link_to_another_file_is_not_followed(cache: Path, name: str, tmp_path: Path):
    elsewhere = put(tmp_path / "elsewhere", name, 666)
    cache.mkdir(mode=0o700)
    (cache / name).symlink_to(elsewhere)
    assert kernel_cache.load(name, answering(1)).answer() == 1
    assert not (cache / name).is_symlink()
    assert elsewhere.exists()


@pytest.mark.parametrize("kind", ["pipe", "directory"])
def test_what_is_not_a_file_does_not_hang_or_break_the_start(cache: Path, name: str, kind: str):
    cache.mkdir(mode=0o700)
    if kind == "pipe":
        os.mkfifo(cache / name, 0o600)
    else:
        (cache / name).mkdir(mode=0o700)
    assert kernel_cache.load(name, answering(1)).answer() == 1


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o1777])
def test_nothing_is_loaded_from_a_directory_that_others_may_write(
    cache: Path, name: str, mode: int, caplog: pytest.LogCaptureFixture
):
    poisoned = put(cache, name, 666)
    cache.chmod(mode)
    assert kernel_cache.load(name, answering(1)).answer() == 1
    assert f"other users may write {cache} (mode {mode:o}; run: chmod go-w {cache})" in caplog.text
    assert "for this process alone" in caplog.text
    assert poisoned.exists(), "what lies there is left alone"


@as_root
def test_nothing_is_loaded_from_a_directory_of_another_user(cache: Path, name: str, caplog: pytest.LogCaptureFixture):
    put(cache, name, 666)
    os.chown(cache, NOBODY, NOBODY)
    assert kernel_cache.load(name, answering(1)).answer() == 1
    assert f"{cache} belongs to another user (id {NOBODY})" in caplog.text


def test_a_directory_behind_a_link_is_judged_itself(
    monkeypatch: pytest.MonkeyPatch, cache: Path, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    put(cache, name, 2)
    link = tmp_path / "link"
    link.symlink_to(cache)
    monkeypatch.setenv("EZTINKER_CACHE_DIR", str(link))
    assert kernel_cache.load(name, never).answer() == 2
    cache.chmod(0o777)
    assert kernel_cache.load(f"other-{name}", answering(1)).answer() == 1
    assert "other users may write" in caplog.text


def test_a_place_where_no_directory_can_be_is_passed_over(cache: Path, name: str, caplog: pytest.LogCaptureFixture):
    cache.write_text("a file")
    assert kernel_cache.load(name, answering(1)).answer() == 1
    assert "for this process alone" in caplog.text


def test_a_user_without_a_home_directory_is_served_too(
    monkeypatch: pytest.MonkeyPatch, name: str, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("EZTINKER_CACHE_DIR", "~nobody-of-this-name/cache")
    assert kernel_cache.load(name, answering(1)).answer() == 1
    assert "for this process alone" in caplog.text


@pytest.mark.usefixtures("cache")
def test_a_library_that_does_not_load_is_reported(name: str):
    def garbage(target: Path) -> None:
        target.write_bytes(b"not a library")

    with pytest.raises(OSError, match=name):
        kernel_cache.load(name, garbage)


def test_a_compiler_that_fails_is_not_asked_twice(cache: Path, name: str, caplog: pytest.LogCaptureFixture):
    asked: list[Path] = []

    def fail(target: Path) -> None:
        asked.append(target)
        raise LookupError("no")

    with caplog.at_level(logging.WARNING), pytest.raises(LookupError):
        kernel_cache.load(name, fail)
    assert len(asked) == 1
    assert not caplog.records
    assert not list(cache.iterdir())
