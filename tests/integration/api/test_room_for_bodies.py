"""Bodies on their way take room before they are read; beyond a key's share its clients are told to come again."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
import zstandard

from eztinker.api.reading import DECODED_FACTOR, FREE_BYTES, SMALL_BYTES
from tests.integration.api.test_raw_http import connect, get, read_answer
from tests.route_cases import tenant
from tests.servers import RunningServer, ServeScripted, wait_until
from tests.wire import PROTOBUF, new_session

BUDGET_BYTES = 1 << 20
SHARE_BYTES = BUDGET_BYTES // 2
LARGE = 300_000


@pytest.fixture
def server(serve_scripted: ServeScripted) -> RunningServer:
    return serve_scripted(poll_hold_seconds=0.5, max_body_bytes=BUDGET_BYTES)


@contextmanager
def body_on_its_way(
    server: RunningServer, num_bytes: int, path: bytes = b"/api/v1/create_session"
) -> Iterator[socket.socket]:
    """A request that has declared its length, has its room and has sent one byte."""
    taken_before = room_taken(server)
    with connect(server) as connection:
        connection.sendall(get(path, b"Content-Length: %d" % num_bytes, method=b"POST") + b"{")
        wait_until(lambda: room_taken(server) == taken_before + num_bytes)
        yield connection


def room_taken(server: RunningServer) -> int:
    return server.app.state.body_budget.num_bytes


def takes(http: httpx.Client, num_bytes: int) -> httpx.Response:
    return http.post("/create_session", content=b"{}".ljust(num_bytes))


def test_beyond_its_share_a_key_is_told_to_come_again_and_others_are_not(server: RunningServer):
    with server.client() as http, tenant(server, "bob") as bob, body_on_its_way(server, LARGE):
        refusal = takes(http, LARGE)
        assert refusal.status_code == 429
        assert refusal.headers["retry-after"] == "1"
        assert "x-should-retry" not in refusal.headers
        assert refusal.json()["error"]["code"] == "queue_full"
        assert "more than its share of 1,048,576" in refusal.json()["detail"]
        assert takes(bob, LARGE).status_code == 200
        assert takes(http, FREE_BYTES).status_code == 200  # polls and heartbeats go on
        new_session(http)


def test_a_client_that_vanishes_gives_its_room_back_at_once(server: RunningServer):
    with server.client() as http:
        with body_on_its_way(server, LARGE):
            assert takes(http, LARGE).status_code == 429
        wait_until(lambda: room_taken(server) == 0)
        assert takes(http, LARGE).status_code == 200


def test_a_request_that_is_over_gives_its_room_back(server: RunningServer):
    with server.client() as http:
        for _ in range(20):
            assert takes(http, SHARE_BYTES).status_code == 200
            assert http.post("/create_session", content=b"[".ljust(SHARE_BYTES)).status_code == 400
            assert http.post("/create_session", content=b"{".ljust(2 << 20)).status_code == 413


def test_what_is_refused_is_read_and_dropped_so_that_the_connection_goes_on(server: RunningServer):
    with body_on_its_way(server, LARGE), connect(server) as connection:
        body = b"{}".ljust(LARGE)
        asked = get(b"/api/v1/create_session", b"Content-Length: %d" % len(body), method=b"POST")
        connection.sendall(asked.replace(b"Connection: close\r\n", b"") + body)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 429 ")
        connection.sendall(get(b"/healthz"))
        assert read_answer(connection)[0] == 200


def test_a_body_that_does_not_say_its_length_takes_room_as_it_comes(server: RunningServer):
    def parts() -> Iterator[bytes]:
        yield b"{}"
        for _ in range(10):
            yield b" " * (LARGE // 10)

    with server.client() as http:
        assert http.post("/create_session", content=parts()).status_code == 200
        with body_on_its_way(server, LARGE):
            assert http.post("/create_session", content=parts()).status_code == 429
        wait_until(lambda: room_taken(server) == 0)
        assert http.post("/create_session", content=parts()).status_code == 200


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (bytes(SHARE_BYTES // DECODED_FACTOR + 1), {"content-type": PROTOBUF}),
        (b"{}".ljust(SHARE_BYTES // DECODED_FACTOR + 1), {"content-type": "application/json"}),
        (zstandard.compress(bytes(SHARE_BYTES)), {"content-type": PROTOBUF, "content-encoding": "zstd"}),
    ],
    ids=["protobuf", "JSON", "packed"],
)
def test_a_batch_counts_as_what_it_becomes(server: RunningServer, body: bytes, headers: dict[str, str]):
    with server.client() as http:
        assert http.post("/forward_backward", content=body, headers=headers).status_code == 429
        smaller = body[: SHARE_BYTES // DECODED_FACTOR] if len(body) > SMALL_BYTES else zstandard.compress(bytes(1000))
        assert http.post("/forward_backward", content=smaller, headers=headers).status_code == 400


def test_what_nobody_reads_takes_no_room(server: RunningServer):
    with server.client() as http, body_on_its_way(server, SHARE_BYTES):
        assert takes(http, LARGE).status_code == 429
        answer = http.post("/telemetry", content=json.dumps({"events": ["x" * (1 << 20)]}).encode())
        assert answer.status_code == 200
