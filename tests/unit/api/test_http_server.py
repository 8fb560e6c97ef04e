"""Bounds on the head of a request, on a real connection to a small application; and answers sent in one piece."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from types import SimpleNamespace

import pytest
from fastapi import FastAPI, Request

from eztinker.api import http_server as http_server_module
from eztinker.api.http_server import MAX_HEAD_BYTES, MAX_HEADERS, MAX_TARGET_BYTES, PEER, JoinedWrites, http_server


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of an application that says what it was asked."""
    app = FastAPI()

    @app.get("/{path:path}")
    async def say(path: str, request: Request) -> dict[str, str]:
        return {"path": path, "host": request.headers["host"], "peer": getattr(request.state, PEER)}

    app.state.service = SimpleNamespace(
        futures=SimpleNamespace(release_polls=lambda: None), engine=SimpleNamespace(refusal=None)
    )
    server = http_server(app, drain_seconds=1)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def exchange(port: int, *parts: bytes) -> tuple[int, dict[str, str]]:
    """Send a request in these parts; gives the status and body of the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(0.01)
        except ConnectionError:
            pass  # the answer is there already
        received = b""
        try:
            while part := connection.recv(1 << 16):
                received += part
        except ConnectionError:
            pass
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body)


def request(target: bytes = b"/a", *headers: bytes) -> bytes:
    lines = b"".join(line + b"\r\n" for line in (b"Host: h", *headers, b"Connection: close"))
    return b"GET " + target + b" HTTP/1.1\r\n" + lines + b"\r\n"


def test_a_plain_request_reaches_the_application_with_the_address_it_comes_from(port: int):
    assert exchange(port, request()) == (200, {"path": "a", "host": "h", "peer": "127.0.0.1"})


def test_a_request_may_come_byte_by_byte(port: int):
    whole = request()
    status, said = exchange(port, *(whole[place : place + 1] for place in range(len(whole))))
    assert (status, said["path"]) == (200, "a")


def test_each_bound_is_met_exactly(port: int):
    longest = b"/" + b"a" * (MAX_TARGET_BYTES - 1)
    assert exchange(port, request(longest))[0] == 200
    assert exchange(port, request(longest + b"a"))[0] == 414
    others = [b"x%d: y" % number for number in range(MAX_HEADERS - 2)]  # beside Host and Connection
    assert exchange(port, request(b"/a", *others))[0] == 200
    assert exchange(port, request(b"/a", *others, b"one: more"))[0] == 431


@pytest.mark.parametrize("parts", [1, 10])
def test_a_head_that_never_ends_is_cut_off(port: int, parts: int):
    piece = b"a" * (2 * MAX_HEAD_BYTES // parts)
    status, said = exchange(port, b"GET / HTTP/1.1\r\nx: ", *([piece] * parts))
    assert status == 431
    assert f"{MAX_HEAD_BYTES} bytes" in said["detail"]


def test_a_head_that_does_not_come_in_time_is_refused(port: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http_server_module, "HEAD_SECONDS", 0.2)
    assert exchange(port, b"GET / HTTP/1.1\r\n")[0] == 408
    assert exchange(port, b"")[0] == 408


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        (b"http://proxied.example/b?c=d", "b", "proxied.example"),
        (b"HTTP://proxied.example:8000/", "", "proxied.example:8000"),
        (b"http://proxied.example", "", "proxied.example"),
    ],
)
def test_a_target_that_names_its_host_counts_for_more_than_the_header(port: int, target: bytes, path: str, host: str):
    status, said = exchange(port, request(target))
    assert (status, said["path"], said["host"]) == (200, path, host)


@pytest.mark.parametrize(
    "target", [b"ftp://h/a", b"http://user@h/a", b"http:///a", b"a", b"http://h/a#part", b"http://h\\a"]
)
def test_any_other_target_is_refused_in_json(port: int, target: bytes):
    status, said = exchange(port, request(target))
    assert status == 400
    assert said["detail"]


@pytest.mark.parametrize("hosts", [[], [b"Host: a", b"Host: b"]], ids=["none", "two"])
def test_a_request_has_one_host(port: int, hosts: list[bytes]):
    lines = b"".join(line + b"\r\n" for line in (*hosts, b"Connection: close"))
    status, said = exchange(port, b"GET / HTTP/1.1\r\n" + lines + b"\r\n")
    assert (status, f"got {len(hosts)}" in said["detail"]) == (400, True)


HEAD, BODY = b"HTTP/1.1 200 OK\r\n\r\n", b"{}"


class Wire(asyncio.Transport):
    """What reaches the system, call by call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.calls.append(bytes(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.calls.append(b"".join(list_of_data))

    def close(self) -> None:
        self.calls.append(b"closed")


def written(*turns: list[bytes], then_close: bool = False) -> list[bytes]:
    """The calls that come of these writes, each list in one turn of the loop."""

    async def write() -> list[bytes]:
        wire = Wire()
        transport = JoinedWrites(wire, asyncio.get_running_loop())
        for pieces in turns:
            for piece in pieces:
                transport.write(piece)
            if then_close:
                transport.close()
            await asyncio.sleep(0)
        return wire.calls

    return asyncio.run(write())


def test_a_head_and_its_body_are_one_call():
    assert written([HEAD, BODY]) == [HEAD + BODY]


def test_what_comes_alone_goes_at_the_end_of_the_turn():
    assert written([HEAD], [BODY], [BODY]) == [HEAD, BODY, BODY]


def test_answers_to_pipelined_requests_keep_their_order():
    assert b"".join(written([HEAD, BODY, HEAD], [BODY, HEAD, BODY])) == (HEAD + BODY) * 3


def test_closing_sends_what_is_kept_first():
    assert written([HEAD], then_close=True) == [HEAD, b"closed"]
    assert written([HEAD, BODY], then_close=True) == [HEAD + BODY, b"closed"]
