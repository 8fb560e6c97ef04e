"""The server's own key: made once, and closed to other users."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from eztinker.errors import ConfigError
from eztinker.keys.server_key import ensure_api_key, read_api_key


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path: Path):
    first, second = ensure_api_key(tmp_path), ensure_api_key(tmp_path)
    assert (first.is_new, second.is_new) == (True, False)
    assert first.key == second.key == read_api_key(tmp_path)
    assert first.key.startswith("tml-")
    assert len(first.key) >= len("tml-") + 43  # 256 bits in base64
    assert stat.S_IMODE((tmp_path / "api_key").stat().st_mode) == 0o600


def test_two_directories_have_two_keys(tmp_path: Path):
    (tmp_path / "other").mkdir()
    assert ensure_api_key(tmp_path).key != ensure_api_key(tmp_path / "other").key


def test_a_key_file_open_to_others_is_refused_with_the_command_that_closes_it(tmp_path: Path):
    ensure_api_key(tmp_path)
    (tmp_path / "api_key").chmod(0o640)
    with pytest.raises(ConfigError, match=r"mode 640\); run: chmod 600 .*api_key"):
        read_api_key(tmp_path)


def test_a_key_that_could_not_be_written_leaves_nothing_and_is_made_the_next_time(tmp_path: Path):
    """A full disk left an empty file, which every later start refused."""
    (tmp_path / "api_key.tmp").mkdir()
    with pytest.raises(ConfigError, match="api_key cannot be written"):
        ensure_api_key(tmp_path)
    (tmp_path / "api_key.tmp").rmdir()
    assert ensure_api_key(tmp_path).is_new


@pytest.mark.parametrize("text", ["", "tml-\n", "sk-abc", "tml-a\nb"])
def test_a_key_file_without_a_key_is_refused(tmp_path: Path, text: str):
    (tmp_path / "api_key").write_text(text)
    (tmp_path / "api_key").chmod(0o600)
    with pytest.raises(ConfigError, match="must start with 'tml-'"):
        read_api_key(tmp_path)


def test_a_data_directory_that_is_a_file_is_refused_with_its_name(tmp_path: Path):
    file = tmp_path / "file"
    file.touch()
    for data_dir in (file, file / "deep"):
        with pytest.raises(ConfigError, match=f"^{file} is a file, not a data directory; name another with --data-dir"):
            read_api_key(data_dir)
