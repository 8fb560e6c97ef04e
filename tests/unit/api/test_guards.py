"""Web pages that an operator has open may neither name the server nor change anything."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from eztinker.api.guards import OriginGuard


async def answer(_: object) -> PlainTextResponse:
    return PlainTextResponse("let through")


def client_of(host: str) -> TestClient:
    """A client of a server that listens on `host`."""
    app = Starlette(routes=[Route("/", answer, methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])])
    return TestClient(OriginGuard(app, host=host), base_url="http://127.0.0.1")


def outcome(listens_on: str, method: str = "GET", **headers: str) -> str:
    response = client_of(listens_on).request(method, "/", headers=headers)
    return "ok" if response.status_code == 200 else response.json()["error"]["code"]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8000", "localhost:1", "LocalHost", "localhost.", "[::1]:8000"]
)
def test_the_names_of_this_machine_are_let_through(host: str):
    assert outcome("127.0.0.1", Host=host) == outcome("localhost", Host=host) == "ok"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "192.0.2.1:80", "[2001:db8::1]"])
def test_another_name_is_refused_where_only_this_machine_can_ask(host: str):
    """Its page had it resolve to 127.0.0.1."""
    assert outcome("127.0.0.1", Host=host) == "host_not_allowed"
    assert outcome("0.0.0.0", Host=host) == "ok"  # it may be the right one


@pytest.mark.parametrize("host", ["", "a b", "a/b", "user@localhost", "localhost:port", "localhost:1:2", "[::1", "\tx"])
def test_what_is_no_name_is_refused_everywhere(host: str):
    assert outcome("127.0.0.1", Host=host) == outcome("0.0.0.0", Host=host) == "bad_host"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:9", "file://", ""])
def test_another_origin_changes_nothing(method: str, origin: str):
    assert outcome("127.0.0.1", method, Host="127.0.0.1:8000", Origin=origin) == "origin_not_allowed"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_another_origin_may_ask_what_changes_nothing(method: str):
    response = client_of("127.0.0.1").request(method, "/", headers={"Origin": "https://evil.example"})
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("LOCALHOST:80", "http://localhost"),
    ],
)
def test_the_servers_own_pages_may(host: str, origin: str):
    assert outcome("127.0.0.1", "POST", Host=host, Origin=origin) == "ok"
