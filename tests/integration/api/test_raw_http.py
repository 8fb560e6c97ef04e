"""Requests that no HTTP library would send: broken heads, slow ones, odd targets, and clients that vanish."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from urllib.parse import urlsplit

import httpx
import pytest

from eztinker.api import http_server, reading
from tests.servers import API_KEY, RunningServer
from tests.wire import chunk, loss_of, new_run, optim_step, outcome, post, send_chunk

KEY = b"x-api-key: " + API_KEY.encode() + b"\r\n"
HOST = b"Host: 127.0.0.1\r\n"


def connect(server: RunningServer) -> socket.socket:
    parts = urlsplit(server.url)
    assert parts.hostname is not None
    return socket.create_connection((parts.hostname, parts.port or 0), timeout=20)


def exchange(server: RunningServer, request: bytes) -> tuple[int, bytes]:
    """Status and body of the answer to `request`; the connection may be closed before all of it is written."""
    with connect(server) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(request)
        return read_answer(connection)


def read_answer(connection: socket.socket) -> tuple[int, bytes]:
    received = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(1 << 16):
            received += part
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), body


def get(target: bytes, *headers: bytes, method: bytes = b"GET") -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return method + b" " + target + b" HTTP/1.1\r\n" + HOST + KEY + b"Connection: close\r\n" + lines + b"\r\n"


BAD_HEADS = {
    "a head of 70 KB in one header": (get(b"/api/v1/sessions", b"x: " + b"a" * 70_000), 431),
    "a header that never ends": (b"GET / HTTP/1.1\r\nx: " + b"a" * 400_000, 431),
    "1,000 headers": (get(b"/api/v1/sessions", *(b"x%d: y" % number for number in range(1000))), 431),
    "a path of 1 MB": (get(b"/api/v1/" + b"a" * (1 << 20)), 431),
    "a path of 20 KB": (get(b"/api/v1/" + b"a" * 20_000), 414),
    "a key of 1 MB": (get(b"/api/v1/sessions", b"x-api-key: tml-" + b"k" * (1 << 20)), 431),
    "both lengths": (get(b"/api/v1/x", b"Content-Length: 3", b"Transfer-Encoding: chunked", method=b"POST"), 400),
    "two lengths": (get(b"/api/v1/x", b"Content-Length: 3", b"Content-Length: 4", method=b"POST"), 400),
    "a negative length": (get(b"/api/v1/create_session", b"Content-Length: -1", method=b"POST"), 400),
    "an endless length": (get(b"/api/v1/create_session", b"Content-Length: " + b"9" * 400, method=b"POST"), 400),
    "an unknown method": (get(b"/api/v1/sessions", method=b"BREW"), 400),
    "TRACE": (get(b"/api/v1/sessions", method=b"TRACE"), 405),
    "CONNECT": (get(b"evil.example:80", method=b"CONNECT"), 400),
    "no HTTP at all": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "a bare line feed in a header": (b"GET /api/v1/sessions HTTP/1.1\r\nHost: 127.0.0.1\r\nx: a\rb\r\n\r\n", 400),
    "an empty segment": (get(b"//api/v1/sessions"), 400),
    "an empty segment inside": (get(b"/api//v1/sessions"), 400),
    "dotted segments": (get(b"/api/v1/nothing/../sessions"), 400),
    "encoded dots": (get(b"/api/v1/%2e%2e/v1/sessions"), 400),
    "dots encoded twice": (get(b"/api/v1/%252e%252e/sessions"), 400),
    "an encoded slash": (get(b"/api/v1%2fsessions"), 400),
    "a backslash": (get(b"/api/v1\\sessions"), 400),
    "an encoded NUL": (get(b"/api/v1/sessions/%00"), 400),
    "a target without a slash": (get(b"*", method=b"OPTIONS"), 400),
    "no Host": (get(b"/healthz").replace(HOST, b""), 400),
    "two Hosts": (get(b"/healthz", b"Host: localhost"), 400),
    "a URL and no Host": (get(b"http://127.0.0.1/healthz").replace(HOST, b""), 400),
    "a URL of another scheme": (get(b"ftp://127.0.0.1/healthz"), 400),
    "a URL with a user": (get(b"http://someone:word@127.0.0.1/healthz"), 400),
    "a URL without a host": (get(b"http:///healthz"), 400),
    "a URL with a fragment": (get(b"http://127.0.0.1/healthz#a"), 400),
    "a URL with a backslash": (get(b"http://127.0.0.1\\@evil.example/healthz"), 400),
    "a URL without the slashes": (get(b"http:127.0.0.1/healthz"), 400),
}


@pytest.mark.conforms(7)
@pytest.mark.parametrize("case", BAD_HEADS)
def test_a_bad_head_is_refused_in_json(server: RunningServer, case: str):
    request, status = BAD_HEADS[case]
    answered, body = exchange(server, request)
    assert answered == status
    assert json.loads(body)["detail"] == json.loads(body)["error"]["message"]


def asked_of(host: bytes) -> bytes:
    return get(b"/api/v1/sessions").replace(HOST, b"Host: " + host + b"\r\n")


@pytest.mark.parametrize(
    "host",
    [
        *(b"127.0.0.1", b"127.0.0.1:8000", b"127.0.0.1.", b"127.200.0.1", b"[::1]", b"[::1]:80", b"[0:0:0:0:0:0:0:1]"),
        *(b"localhost", b"LOCALHOST", b"LocalHost:80", b"localhost.", b"LOCALHOST.:8000", b"localhost:"),
    ],
)
def test_the_names_of_this_machine_are_the_same_in_any_case_and_in_full(server: RunningServer, host: bytes):
    """RFC 9110, 4.2.3, and RFC 3986, 3.2.2."""
    assert exchange(server, asked_of(host))[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        *(b"localhost.evil.example", b"localhost.evil.example.", b"evil.localhost", b"localhost..", b"localhos"),
        *(
            b"127.0.0.1.evil.example",
            b"127.0.0.1..",
            b"127.1",
            b"2130706433",
            b"0x7f.0.0.1",
            b"0127.0.0.1",
            b"128.0.0.1",
        ),
        *(b"0.0.0.0", b"[::]", b"[::2]", b"[fe80::1]"),
    ],
)
def test_other_names_are_not_those_of_this_machine_however_like_them_they_look(server: RunningServer, host: bytes):
    """Each may be a name that somebody else made to lead here (DNS rebinding)."""
    assert exchange(server, asked_of(host))[0] == 403


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"http://127.0.0.1/api/v1/sessions", 200),
        (b"HTTP://LOCALHOST.:8000/api/v1/sessions?limit=1", 200),
        (b"http://[::1]/api/v1/sessions", 200),
        (b"http://evil.example/api/v1/sessions", 403),
        (b"http://evil.example", 403),
        (b"http://evil.example?/api/v1/sessions", 403),
        (b"http://localhost.evil.example:80/api/v1/sessions", 403),
        (b"http://[::1/api/v1/sessions", 400),
        (b"http://127.0.0.1", 404),
        (b"http://127.0.0.1?limit=1", 404),
    ],
)
def test_of_a_target_with_a_host_that_host_counts_and_not_the_header(server: RunningServer, target: bytes, status: int):
    """RFC 9112, 3.2.2."""
    asked = get(target)
    for request in (asked, asked.replace(HOST, b"Host: evil.example\r\n")):
        assert exchange(server, request)[0] == status
    if status == 200:
        assert exchange(server, asked.replace(KEY, b""))[0] == 401


def test_links_name_the_host_of_the_target(server: RunningServer, http: httpx.Client):
    model_id = new_run(http)
    post(http, "/save_weights", model_id=model_id, seq_id=1, path="a")
    outcome(http, optim_step(http, model_id, 2))
    path = f"/api/v1/training_runs/{model_id}/checkpoints/weights/a/archive".encode()
    with connect(server) as connection:
        connection.sendall(get(b"http://localhost:1234" + path))
        assert b"location: http://localhost:1234/api/v1/archives/" in connection.recv(1 << 16)


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        (b"LOCALHOST:8000", b"http://localhost:8000", 200),
        (b"localhost:80", b"http://localhost", 200),
        (b"localhost", b"http://localhost", 200),
        (b"localhost:8000", b"http://localhost", 403),
        (b"localhost:8000", b"http://localhost:8001", 403),
        (b"localhost", b"http://127.0.0.1", 403),
        (b"localhost", b"http://evil.example", 403),
        (b"localhost", b"null", 403),
    ],
)
def test_pages_of_the_server_itself_may_change_things(server: RunningServer, host: bytes, origin: bytes, status: int):
    request = get(b"/api/v1/create_session", b"Origin: " + origin, b"Content-Length: 2", method=b"POST") + b"{}"
    assert exchange(server, request.replace(HOST, b"Host: " + host + b"\r\n"))[0] == status


def test_an_upgrade_is_answered_as_the_request_it_is(server: RunningServer):
    upgrade = get(b"/api/v1/nothing").replace(b"Connection: close", b"Connection: upgrade\r\nUpgrade: websocket")
    with connect(server) as connection:
        connection.sendall(upgrade)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 404 ")


def test_a_head_that_does_not_come_is_given_up(server: RunningServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.2)
    for begun in (b"", b"GET /api/v1/sessions HTTP/1.1\r\n"):
        with connect(server) as connection:
            connection.sendall(begun)
            assert read_answer(connection)[0] == 408


def test_a_body_that_does_not_come_is_given_up(server: RunningServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reading, "BODY_SECONDS", 0.2)
    with connect(server) as connection:
        connection.sendall(get(b"/api/v1/create_session", b"Content-Length: 100", method=b"POST") + b"{")
        assert read_answer(connection)[0] == 408


@pytest.mark.conforms(14)
def test_an_idle_connection_outlives_the_time_for_a_head(server: RunningServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.2)
    with connect(server) as connection:
        for _ in range(2):
            connection.sendall(get(b"/healthz").replace(b"Connection: close\r\n", b""))
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
            time.sleep(0.5)


@pytest.fixture
def run(http: httpx.Client) -> str:
    return new_run(http)


def test_a_client_that_vanishes_inside_a_body_has_asked_for_nothing(
    server: RunningServer, http: httpx.Client, run: str
):
    body = json.dumps({"model_id": run, "seq_id": 1, "adam_params": {}}).encode()
    head = get(b"/api/v1/optim_step", b"Content-Length: %d" % len(body), method=b"POST")
    with connect(server) as connection:
        connection.sendall(head + body[:-1])
    assert outcome(http, optim_step(http, run, 1)).json()["metrics"] == {"step": 1.0}


def test_a_client_that_vanishes_after_its_request_finds_it_done_once(
    server: RunningServer, http: httpx.Client, run: str
):
    body = json.dumps({"model_id": run, "seq_id": 1, "adam_params": {}}).encode()
    with connect(server) as connection:
        connection.sendall(get(b"/api/v1/optim_step", b"Content-Length: %d" % len(body), method=b"POST") + body)
    assert outcome(http, optim_step(http, run, 1)).json()["metrics"] == {"step": 1.0}
    assert outcome(http, optim_step(http, run, 2)).json()["metrics"] == {"step": 2.0}


def test_a_poll_whose_client_vanishes_takes_nothing_away(server: RunningServer, http: httpx.Client, run: str):
    second = send_chunk(http, chunk(run, 2, token=10))
    body = json.dumps({"request_id": second}).encode()
    with connect(server) as connection:
        connection.sendall(get(b"/api/v1/retrieve_future", b"Content-Length: %d" % len(body), method=b"POST") + body)
    send_chunk(http, chunk(run, 1))
    assert loss_of(outcome(http, second, accept="application/x-protobuf")) == 2.0
