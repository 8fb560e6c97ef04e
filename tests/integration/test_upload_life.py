"""Uploads over time and over a server's end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import ClientDisconnect

from eztinker.checkpoints.incoming import receive_file
from eztinker.checkpoints.peft import CONFIG
from eztinker.errors import DiskFull, TooLarge
from eztinker.service.clock import Clock
from eztinker.service.signed_links import LIFETIME
from tests.servers import RunningServer, serving_scripted, wait_until
from tests.wire import post


class SetClock(Clock):
    passed = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.passed


@pytest.fixture(autouse=True)
def quick_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRIPTED_ENGINE_DIRECTORY", str(tmp_path))
    monkeypatch.setattr("eztinker.service.service.HOUSEKEEPING_SECONDS", 0.1)


def start(http: httpx.Client) -> dict[str, Any]:
    return post(http, "/external_weights_upload_start", base_model="tiny")


def files(server: RunningServer) -> list[str]:
    return sorted(path.name for path in (server.data_dir / "uploads").rglob("*") if path.is_file())


def test_an_upload_that_is_never_finished_goes_when_its_links_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = SetClock()
    monkeypatch.setattr("eztinker.service.service.Clock", lambda: clock)
    with serving_scripted(tmp_path / "data") as server, server.client() as http:
        uploads = [start(http) for _ in range(4)]
        url = uploads[0]["urls"][CONFIG]
        assert httpx.put(url, content=b"{}").status_code == 200
        assert files(server) == [CONFIG]
        clock.passed = LIFETIME
        wait_until(lambda: files(server) == [])
        assert httpx.put(url, content=b"{}").status_code == 404
        finish = http.post("/external_weights_upload_finish", json={"upload_id": uploads[0]["upload_id"]})
        assert finish.status_code == 404
        start(http)  # there is room again


def test_an_upload_goes_on_after_a_restart_and_strange_directories_are_removed(tmp_path: Path):
    with serving_scripted(tmp_path / "data") as server, server.client() as http:
        upload = start(http)
        assert httpx.put(upload["urls"][CONFIG], content=b"{}").status_code == 200
    strange = tmp_path / "data" / "uploads" / "upload-unknown"
    strange.mkdir()
    with serving_scripted(tmp_path / "data") as server, server.client() as http:
        wait_until(lambda: not strange.exists())
        assert files(server) == [CONFIG]
        told = http.post("/external_weights_upload_finish", json={"upload_id": upload["upload_id"]})
        assert "lacks adapter_model.safetensors" in told.json()["detail"]


async def stream_of(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def received(path: Path, *parts: bytes, max_bytes: int = 10) -> bytes:
    asyncio.run(receive_file(path, stream_of(*parts), max_bytes=max_bytes))
    return path.read_bytes()


def test_a_file_is_whole_under_its_name_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "file"
    assert received(path, b"one", b"two") == b"onetwo"
    with pytest.raises(TooLarge, match="file may have 10 bytes"):
        received(path, b"x" * 11)
    with pytest.raises(TooLarge):
        received(path, *[b"x" * (1 << 20)] * 5)
    assert path.read_bytes() == b"onetwo"
    assert received(path) == b""
    monkeypatch.setattr("eztinker.checkpoints.incoming.RESERVE_BYTES", 1 << 60)
    with pytest.raises(DiskFull, match="must stay free"):
        received(path, b"more")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b""


def test_a_client_that_goes_away_leaves_nothing_half_written(tmp_path: Path):
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * (2 << 20)
        raise ClientDisconnect

    with pytest.raises(ClientDisconnect):
        asyncio.run(receive_file(tmp_path / "file", broken(), max_bytes=4 << 20))
    assert list(tmp_path.iterdir()) == []
