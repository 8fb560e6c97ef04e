"""Bodies of requests: read up to a limit, refused by their type, unpacked within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import zstandard
from fastapi import FastAPI, Request, Response
from fastapi.testclient import TestClient

from eztinker.api import reading
from eztinker.api.body_budget import HOLD, BodyBudget, Hold
from eztinker.api.error_responses import install_error_handlers
from eztinker.api.reading import (
    FREE_BYTES,
    SMALL_BYTES,
    decoded,
    drop_body,
    is_protobuf,
    read_body,
    read_json,
    read_object,
    read_training_body,
)
from eztinker.protocol.json_bodies import Body

BUDGET_BYTES = 200_000
PROTOBUF, ZSTD = {"content-type": "application/x-protobuf"}, {"content-encoding": "zstd"}


class Numbered(Body):
    number: int


@pytest.fixture
def app() -> FastAPI:
    """A route for each way of reading; all share one budget."""
    app = FastAPI()
    install_error_handlers(app)
    app.state.budget = BodyBudget(BUDGET_BYTES)

    def with_room(request: Request) -> None:
        request.state.owner = "ann"
        setattr(request.state, HOLD, Hold(app.state.budget))

    @app.post("/body")
    async def body(request: Request, limit: int = 1000) -> Response:
        return Response(bytes(await read_body(request, max_bytes=limit)))

    @app.post("/held")
    async def held(request: Request) -> int:
        with_room(request)
        await read_body(request, max_bytes=10 * BUDGET_BYTES)
        hold: Hold = getattr(request.state, HOLD)
        num_bytes = hold.num_bytes
        hold.release()
        return num_bytes

    @app.post("/dropped")
    async def dropped(request: Request) -> str:
        await drop_body(request, max_bytes=1000)
        return "gone"

    @app.post("/json")
    async def as_record(request: Request) -> int:
        return (await read_json(request, Numbered)).number

    @app.post("/object")
    async def as_object(request: Request) -> dict[str, Any]:
        return await read_object(request)

    @app.post("/training")
    async def training(request: Request) -> Response:
        content = bytes(await read_training_body(request))
        return Response(content, headers={"x-protobuf": str(is_protobuf(request))})

    return app


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def code(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def sent_in_parts(app: FastAPI, path: str, *parts: bytes, ends: bool = True) -> httpx.Response:
    """The answer to a body of undeclared length that comes in these parts, and then ends or keeps us waiting."""
    messages = [
        {"type": "http.request", "body": part, "more_body": not ends or place < len(parts)}
        for place, part in enumerate(parts, 1)
    ]
    answer: list[Any] = []

    async def receive() -> Any:
        if not messages:
            await asyncio.sleep(5)
        return messages.pop(0)

    async def send(message: Any) -> None:
        answer.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": []}
    asyncio.run(app(scope, receive, send))  # pyright: ignore[reportArgumentType]
    start, *rest = answer
    content = b"".join(message.get("body", b"") for message in rest)
    return httpx.Response(start["status"], headers=start["headers"], content=content)


@pytest.mark.parametrize("num_bytes", [0, 1, 999, 1000])
def test_a_body_up_to_its_limit_comes_as_it_was_sent(client: TestClient, app: FastAPI, num_bytes: int):
    content = bytes(number % 251 for number in range(num_bytes))
    assert client.post("/body", content=content).content == content
    parts = [content[start : start + 100] for start in range(0, num_bytes, 100)]
    assert sent_in_parts(app, "/body", *parts, b"").content == content


def test_a_byte_more_is_refused_whether_it_was_declared_or_not(client: TestClient, app: FastAPI):
    for path in ("/body", "/dropped"):
        assert client.post(path, content=bytes(1000)).status_code == 200
        assert client.post(path, content=bytes(1001)).status_code == 413
        for parts in ([bytes(600), bytes(600), b""], [bytes(600), bytes(600)], [bytes(1001)]):
            undeclared = sent_in_parts(app, path, *parts)
            assert undeclared.status_code == 413
            assert undeclared.headers["connection"] == "close"


@pytest.mark.parametrize("declared", ["-1", "1e3", "x", "٣"])
def test_a_length_that_is_no_number_is_malformed(client: TestClient, declared: str):
    headers = {"content-length": declared.encode()}
    assert client.post("/body", content=b"", headers=headers).status_code == 400  # pyright: ignore


def test_a_body_takes_room_unless_it_is_small_and_is_refused_without(client: TestClient):
    assert client.post("/held", content=bytes(FREE_BYTES)).json() == 0
    assert client.post("/held", content=bytes(FREE_BYTES + 1)).json() == FREE_BYTES + 1
    assert client.post("/held", content=iter([bytes(3000)] * 2)).json() == 6000
    assert code(client.post("/held", content=bytes(BUDGET_BYTES)))[0] == 429


def test_a_body_that_does_not_come_in_time_is_given_up(monkeypatch: pytest.MonkeyPatch, app: FastAPI):
    monkeypatch.setattr(reading, "BODY_SECONDS", 0.05)

    assert code(sent_in_parts(app, "/body", b"a", ends=False)) == (408, "body_too_slow")


@pytest.mark.parametrize("content_type", [None, "application/json", "text/json", "Application/JSON; charset=utf-8"])
def test_json_is_read_whether_it_says_so_or_nothing(client: TestClient, content_type: str | None):
    headers = {} if content_type is None else {"content-type": content_type}
    for path, expected in (("/json", 7), ("/object", {"number": 7})):
        assert client.post(path, content=b'{"number": 7}', headers=headers).json() == expected


@pytest.mark.parametrize("headers", [{"content-type": "text/plain"}, PROTOBUF, ZSTD, {"content-encoding": "gzip"}])
def test_what_says_that_it_is_something_else_is_refused(client: TestClient, headers: dict[str, str]):
    assert code(client.post("/json", content=b"{}", headers=headers)) == (415, "unsupported_media_type")


def test_json_that_does_not_fit_its_record_names_the_field(client: TestClient):
    refused = client.post("/json", content=b'{"number": "7"}')
    assert refused.status_code == 422
    assert "number" in refused.json()["detail"]
    assert client.post("/json", content=b"{").status_code == 400


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("num_bytes", [10, SMALL_BYTES + 1])
def test_a_batch_is_unpacked_and_told_apart_from_json(client: TestClient, is_packed: bool, num_bytes: int):
    content = bytes(num_bytes)
    body = zstandard.compress(content) if is_packed else content
    for headers, is_proto in ((PROTOBUF, "True"), ({"content-type": "application/json"}, "False")):
        answer = client.post("/training", content=body, headers=headers | (ZSTD if is_packed else {}))
        assert answer.content == content
        assert answer.headers["x-protobuf"] == is_proto


def test_a_packed_batch_that_comes_to_too_much_is_refused(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reading, "MAX_UNPACKED_BYTES", 1000)
    for num_bytes, status in ((1000, 200), (1001, 413)):
        body = zstandard.compress(bytes(num_bytes))
        assert client.post("/training", content=body, headers=PROTOBUF | ZSTD).status_code == status
    broken = zstandard.compress(bytes(1000))[:-1]
    assert client.post("/training", content=broken, headers=PROTOBUF | ZSTD).status_code == 400


@pytest.mark.parametrize("num_bytes", [SMALL_BYTES, SMALL_BYTES + 1])
def test_a_large_body_is_decoded_off_the_event_loop(num_bytes: int):
    async def read() -> bool:
        loop = asyncio.get_running_loop()

        def is_on_loop(_: bytes | bytearray) -> bool:
            try:
                return asyncio.get_running_loop() is loop
            except RuntimeError:
                return False

        return await decoded(is_on_loop, bytes(num_bytes))

    assert asyncio.run(read()) is (num_bytes == SMALL_BYTES)
