"""One server per data directory, and how local tools find it."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

import pytest

from eztinker.errors import ConfigError
from eztinker.settings.data_dir import RunningServer, announced, claim, local_data_dir, running_server


def test_a_claimed_directory_is_closed_to_other_users(tmp_path: Path):
    with claim(tmp_path / "data"):
        assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_a_second_server_on_one_directory_is_refused_with_the_name_of_the_first(tmp_path: Path):
    note = RunningServer(url="http://127.0.0.1:8000", pid=4711)
    with (
        claim(tmp_path),
        announced(tmp_path, note),
        pytest.raises(ConfigError, match=r"8000, process 4711.*--data-dir"),
    ):
        claim(tmp_path).__enter__()


@pytest.mark.parametrize("change", ["deleted", "replaced by a file", "replaced by a link"])
def test_a_second_server_is_refused_whatever_became_of_the_lock_file(tmp_path: Path, change: str):
    data_dir, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    with claim(data_dir):
        (data_dir / "server.lock").unlink()
        if change == "replaced by a file":
            (data_dir / "server.lock").touch()
        elif change == "replaced by a link":
            elsewhere.touch()
            (data_dir / "server.lock").symlink_to(elsewhere)
        with pytest.raises(ConfigError, match=r"Another server uses the data directory .*--data-dir"):
            claim(data_dir).__enter__()
    with claim(data_dir):
        pass


def test_a_server_that_locks_the_file_alone_keeps_ours_out(tmp_path: Path):
    """Older servers do, and so does ours where directories cannot be locked."""
    with (tmp_path / "server.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="Another server uses the data directory"):
            claim(tmp_path).__enter__()


def test_a_directory_is_free_again_after_its_server(tmp_path: Path):
    for _ in range(2):
        with claim(tmp_path):
            pass


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"cannot be written .*--data-dir"):
        claim(tmp_path / "file" / "data").__enter__()


def test_a_server_is_announced_while_it_runs_and_no_longer(tmp_path: Path):
    note = RunningServer.here("http://127.0.0.1:8123")
    with announced(tmp_path, note):
        assert running_server(tmp_path) == RunningServer(url="http://127.0.0.1:8123", pid=os.getpid())
    assert running_server(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": "http://127.0.0.1"}', '{"url": "x", "pid": "y"}'])
def test_a_damaged_note_counts_as_none(tmp_path: Path, text: str):
    (tmp_path / "server.json").write_text(text)
    assert running_server(tmp_path) is None


def test_tools_look_where_a_server_started_here_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("EZTINKER_DATA_DIR", raising=False)
    assert local_data_dir() == Path("/home/ada/.eztinker")
    Path("eztinker.toml").write_text("data_dir = '/from/file'")
    assert local_data_dir() == Path("/from/file")
    monkeypatch.setenv("EZTINKER_DATA_DIR", "~/from-variable")
    assert local_data_dir() == Path("/home/ada/from-variable")


def test_a_directory_in_whose_place_is_a_file_is_refused_with_its_name(tmp_path: Path):
    file = tmp_path / "file"
    file.touch()
    for data_dir in (file, file / "deep"):
        with pytest.raises(ConfigError, match=rf"{data_dir} cannot be written \({file} is a file\)"), claim(data_dir):
            pass
