"""Where a server's settings come from, and what start-up refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from eztinker.errors import ConfigError
from eztinker.settings.server_config import ServerConfig, load_config


@pytest.fixture(autouse=True)
def _an_empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ServerConfig.model_fields:
        monkeypatch.delenv(f"EZTINKER_{name.upper()}", raising=False)


def test_the_defaults_stay_on_this_machine(tmp_path: Path):
    config = load_config()
    assert (config.host, config.port, config.data_dir) == ("127.0.0.1", 8000, tmp_path / ".eztinker")


def test_flags_beat_environment_beats_files_beat_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Five sources, each one naming one setting more than the source above it."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    in_data_dir = "port = 4\nthreads = 4\nmax_batch_size = 4\nmax_train_tokens = 4\n"
    (data_dir / "eztinker.toml").write_text(in_data_dir)
    Path("eztinker.toml").write_text(f"port = 3\nthreads = 3\nmax_batch_size = 3\ndata_dir = '{data_dir}'\n")
    monkeypatch.setenv("EZTINKER_PORT", "2")
    monkeypatch.setenv("EZTINKER_THREADS", "2")

    config = load_config(port=1)

    found = (config.port, config.threads, config.max_batch_size, config.max_train_tokens, config.host)
    assert found == (1, 2, 3, 4, "127.0.0.1")


def test_the_file_of_a_data_directory_named_by_a_flag_is_read(tmp_path: Path):
    (tmp_path / "eztinker.toml").write_text("port = 8123\n")
    assert load_config(data_dir=tmp_path).port == 8123


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EZTINKER_PORT", "")
    assert load_config().port == 8000


def test_the_environment_separates_base_models_by_commas(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EZTINKER_BASE_MODEL", "org/a=/models/a, org/b")
    assert load_config().base_model == ["org/a=/models/a", "org/b"]


def test_a_home_sign_in_the_data_directory_is_expanded(tmp_path: Path):
    assert load_config(data_dir="~/elsewhere").data_dir == tmp_path / "elsewhere"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# ports\n\nprot = 1", ["eztinker.toml, line 3", "'prot'", "max_batch_size"]),
        ("[server]\nport = 1", ["eztinker.toml, line 1", "'server'"]),
        ("host = '::1'\nport = 'many'", ["eztinker.toml, line 2", "port", "'many'"]),
        ("base_model = 'org/a'", ["eztinker.toml, line 1", "list", "'org/a'"]),
        ("port = x", ["eztinker.toml cannot be read", "line 1"]),
        ("api_key = 'tml-secret'", ["eztinker.toml, line 1", "EZTINKER_API_KEY"]),
    ],
)
def test_a_wrong_file_is_named_with_line_and_fix(text: str, expected: list[str]):
    Path("eztinker.toml").write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config()
    for part in expected:
        assert part in error.value.message
    assert "secret" not in error.value.message


def test_a_wrong_flag_is_named_as_the_user_wrote_it():
    with pytest.raises(ConfigError, match=r"--max-batch-size: .*greater than or equal to 1, got 0"):
        load_config(max_batch_size=0)


def test_a_wrong_variable_is_named_as_the_user_wrote_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EZTINKER_DTYPE", "float8")
    with pytest.raises(ConfigError, match=r"EZTINKER_DTYPE: .*'bfloat16'.*got 'float8'"):
        load_config()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_leave(host: str):
    assert load_config(host=host).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_other_machines_need_both_leave_and_a_key(host: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match="--allow-remote"):
        load_config(host=host)
    with pytest.raises(ConfigError, match="EZTINKER_API_KEY"):
        load_config(host=host, allow_remote=True)
    monkeypatch.setenv("EZTINKER_API_KEY", "tml-of-my-own")
    assert load_config(host=host, allow_remote=True).host == host


def test_a_key_that_clients_would_not_send_is_refused_unseen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EZTINKER_API_KEY", "sk-secret")
    with pytest.raises(ConfigError, match="EZTINKER_API_KEY must start with 'tml-'") as error:
        load_config()
    assert "secret" not in error.value.message


def test_a_key_does_not_show_in_the_settings(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EZTINKER_API_KEY", "tml-secret")
    config = load_config()
    assert "secret" not in f"{config!r} {config.model_dump(mode='json')}"


def test_every_setting_is_described():
    assert all(field.description for field in ServerConfig.model_fields.values())


@pytest.mark.parametrize(("given", "kept"), [("", ""), ("/tinker", "/tinker"), ("/a/b-c/", "/a/b-c")])
def test_a_root_path_is_kept_without_its_last_slash(given: str, kept: str):
    assert load_config(root_path=given).root_path == kept


@pytest.mark.parametrize("given", ["tinker", "/", "//x", "/a b", "/../x?", "https://x"])
def test_a_root_path_of_another_form_is_refused(given: str):
    with pytest.raises(ConfigError, match=r"The root path must look like /prefix, got"):
        load_config(root_path=given)
