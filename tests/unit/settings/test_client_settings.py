"""Which server and key local tools use."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from eztinker.errors import ConfigError, ServerUnreachable
from eztinker.keys.server_key import ensure_api_key
from eztinker.settings.client_settings import client_settings, require_server, server_is_up
from eztinker.settings.data_dir import RunningServer, announced

ELSEWHERE = "https://tinker.example.org"


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data directory, and no variable that names a server."""
    for name in ("BASE_URL", "API_KEY"):
        monkeypatch.delenv(f"EZTINKER_{name}", raising=False)
        monkeypatch.delenv(f"TINKER_{name}", raising=False)
    monkeypatch.setenv("EZTINKER_DATA_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def healthy_url() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_without_anything_the_default_address_is_used():
    assert client_settings().base_url == "http://127.0.0.1:8000"


def test_a_running_server_is_found_with_its_key(data_dir: Path):
    key = ensure_api_key(data_dir).key
    with announced(data_dir, RunningServer(url="http://127.0.0.1:8123", pid=1)):
        settings = client_settings()
    assert (settings.base_url, settings.api_key) == ("http://127.0.0.1:8123", key)


def test_our_variables_beat_those_of_the_sdk(monkeypatch: pytest.MonkeyPatch):
    for prefix, port in (("TINKER", 1), ("EZTINKER", 2)):
        monkeypatch.setenv(f"{prefix}_BASE_URL", f"http://127.0.0.1:{port}/")
        monkeypatch.setenv(f"{prefix}_API_KEY", f"tml-{port}")
    settings = client_settings()
    assert (settings.base_url, settings.api_key) == ("http://127.0.0.1:2", "tml-2")


def test_the_variables_of_the_sdk_are_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TINKER_BASE_URL", ELSEWHERE)
    monkeypatch.setenv("TINKER_API_KEY", "tml-hosted")
    settings = client_settings()
    assert (settings.base_url, settings.api_key) == (ELSEWHERE, "tml-hosted")


def test_the_key_of_another_service_does_not_replace_the_local_one(data_dir: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TINKER_API_KEY", "tml-hosted")
    assert client_settings().api_key == "tml-hosted"
    key = ensure_api_key(data_dir).key
    assert client_settings().api_key == key


def test_the_local_key_never_leaves_this_machine(data_dir: Path, monkeypatch: pytest.MonkeyPatch):
    ensure_api_key(data_dir)
    monkeypatch.setenv("EZTINKER_BASE_URL", ELSEWHERE)
    with pytest.raises(ConfigError, match="EZTINKER_API_KEY"):
        client_settings()


def test_the_key_does_not_show_when_settings_are_printed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EZTINKER_API_KEY", "tml-secret")
    assert "secret" not in repr(client_settings())


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://"])
def test_an_address_that_is_no_url_is_refused(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EZTINKER_BASE_URL", url)
    with pytest.raises(ConfigError, match="must look like http://HOST:PORT"):
        client_settings()


def test_a_server_that_answers_is_up_even_behind_a_proxy_setting(healthy_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert server_is_up(healthy_url)


def test_a_server_that_answers_is_required_with_a_key(
    healthy_url: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("EZTINKER_BASE_URL", healthy_url)
    with pytest.raises(ConfigError, match="EZTINKER_API_KEY"):
        require_server()
    key = ensure_api_key(data_dir).key
    assert require_server().api_key == key


def test_a_silent_address_is_named_with_the_command_that_helps(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EZTINKER_BASE_URL", "http://127.0.0.1:1")
    assert not server_is_up("http://127.0.0.1:1")
    with pytest.raises(ServerUnreachable, match=r"http://127.0.0.1:1; .*eztinker server"):
        require_server()
