"""Uploads over time and over a server's end."""

from __future__ import annotations

import asyncio
import shutil
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection
from starlette.requests import ClientDisconnect

from eztinker.base_models.catalog import Catalog
from eztinker.checkpoints.incoming import receive_file
from eztinker.checkpoints.peft import CONFIG, WEIGHTS
from eztinker.errors import DiskBroken, DiskFull, InvalidInput, TooLarge
from eztinker.oplog.store import Store
from eztinker.service.accounts.signed_links import LIFETIME
from eztinker.service.checkpoints.adapters import Adapters
from eztinker.service.checkpoints.checkpoints import Checkpoints
from eztinker.service.checkpoints.uploads import Uploads
from eztinker.service.clock import Clock
from eztinker.service.sessions.sessions import Sessions
from tests.integration.api.test_raw_http import connect
from tests.route_cases import tenant
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


def test_a_file_of_which_nothing_can_be_written_is_refused_in_words(tmp_path: Path):
    """The folder cannot even be made."""
    (tmp_path / "uploads").write_bytes(b"in the way")
    with pytest.raises(DiskBroken, match="The disk failed"):
        received(tmp_path / "uploads" / "upload" / "file", b"x")


def test_a_piece_that_is_still_being_written_when_its_request_ends_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    is_writing, may_write = threading.Event(), threading.Event()
    disk_usage = shutil.disk_usage

    def held(path: Path) -> Any:
        is_writing.set()
        assert may_write.wait(5)
        return disk_usage(path)

    async def scenario() -> None:
        receiving = asyncio.create_task(receive_file(tmp_path / "file", stream_of(b"x"), max_bytes=9))
        await asyncio.to_thread(is_writing.wait, 5)
        receiving.cancel()
        await asyncio.sleep(0)
        may_write.set()
        with pytest.raises(asyncio.CancelledError):
            await receiving

    monkeypatch.setattr("eztinker.checkpoints.incoming.shutil.disk_usage", held)
    asyncio.run(scenario())  # whose end waits for its threads
    assert list(tmp_path.iterdir()) == []


@contextmanager
def sending(server: RunningServer, url: str) -> Iterator[socket.socket]:
    """A PUT of which nothing has come but the first byte."""
    head = f"PUT {httpx.URL(url).raw_path.decode()} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{{"
    with connect(server) as connection:
        connection.sendall(head.encode())
        yield connection


def is_received(server: RunningServer, count: int) -> None:
    wait_until(lambda: len(server.app.state.service.uploads._receiving) == count)


def is_too_early(response: httpx.Response, sentence: str) -> None:
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
    assert sentence in response.json()["detail"]


def test_a_file_comes_in_one_request_at_a_time(tmp_path: Path):
    with serving_scripted(tmp_path / "data") as server, server.client() as http:
        url = start(http)["urls"][CONFIG]
        with sending(server, url):
            is_received(server, 1)
            is_too_early(httpx.put(url, content=b"{}"), "comes in another request")
        is_received(server, 0)
        assert httpx.put(url, content=b"{}").status_code == 200


def test_so_many_files_may_come_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("eztinker.service.checkpoints.uploads.MAX_RECEIVING", 2)
    with serving_scripted(tmp_path / "data") as server, server.client() as http:
        urls = start(http)["urls"]
        with sending(server, urls[CONFIG]):
            is_received(server, 1)
            is_too_early(httpx.put(urls[WEIGHTS], content=b"{}"), "files on their way already")
            with tenant(server, "other") as other:
                assert httpx.put(start(other)["urls"][CONFIG], content=b"{}").status_code == 200


def test_a_file_that_comes_when_its_upload_ends_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = SetClock()
    monkeypatch.setattr("eztinker.service.service.Clock", lambda: clock)
    with serving_scripted(tmp_path / "data") as server, server.client() as http:
        with sending(server, start(http)["urls"][CONFIG]) as connection:
            is_received(server, 1)
            clock.passed = LIFETIME
            assert connection.recv(1 << 12).startswith(b"HTTP/1.1 404")
        is_received(server, 0)


def test_an_upload_that_begins_while_others_are_removed_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its folder comes after the look at the log, where the upload was not yet."""
    root = tmp_path / "uploads"
    (root / "strange").mkdir(parents=True)
    store = Store(tmp_path / "log.db")
    read = store.read

    async def read_and_begin(query: Callable[[Connection], Any]) -> Any:
        answer = await read(query)
        (root / "begun").mkdir()
        return answer

    monkeypatch.setattr(store, "read", read_and_begin)
    catalog, clock = Catalog([]), SetClock()
    saved = Checkpoints(store, tmp_path, clock)
    adapters = Adapters(store, catalog, Sessions(store, clock, timeout_seconds=1), saved, clock)
    asyncio.run(Uploads(store, catalog, adapters, root, clock).expire())
    assert [each.name for each in root.iterdir()] == ["begun"]
    store.close()


def test_an_owner_has_one_upload_finished_at_a_time_and_the_server_one_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    is_reading, may_read = threading.Event(), threading.Event()

    def held(_: Path) -> dict[str, bytes]:
        is_reading.set()
        assert may_read.wait(20)
        raise InvalidInput("as the test says")

    monkeypatch.setattr("eztinker.service.checkpoints.uploads._content", held)
    with (
        serving_scripted(tmp_path / "data") as server,
        server.client() as http,
        tenant(server, "other") as other,
        ThreadPoolExecutor() as pool,
    ):

        def finish(client: httpx.Client) -> httpx.Response:
            return client.post("/external_weights_upload_finish", json={"upload_id": start(client)["upload_id"]})

        first = pool.submit(finish, http)
        assert is_reading.wait(20)
        is_reading.clear()
        is_too_early(finish(http), "An upload of yours is being finished")
        second = pool.submit(finish, other)
        assert not is_reading.wait(0.5)
        assert server.app.state.service.adapters._reading.locked()
        may_read.set()
        assert [each.result().status_code for each in (first, second)] == [422, 422]
        assert is_reading.is_set()
