"""Ten thousand requests that are nearly right, over every route: the server answers each, at once, and tells nothing.

Each starts as the well-formed request of its route and is then broken in one to three places. The seed fixes them all.
"""

from __future__ import annotations

import copy
import json
import random
import string
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.route_cases import CASES, Call, Ids, make_ids, unknown_ids
from tests.servers import RunningServer, serving_scripted

NUM_REQUESTS = 10_000
FRESH_EVERY = 250
SEED = 20_240_607
SLOWEST_SECONDS = 5.0
ODD_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**53, 2**63 - 1, 2**63, 2**70, -(2**63) - 1, 0.5, -0.0, 1e308, 1e-320),
    *(
        float("nan"),
        float("inf"),
        "",
        "a",
        "tiny",
        "0",
        "null",
        "\0",
        "\n",
        "\x1b[31m",
        "\ud800",
        "\U0001f600",
        "%2e%2e",
    ),
    *("../../etc/passwd", "tinker://a/weights/b", "file:///etc/passwd", "<script>", "=cmd()", "x" * 300, "x" * 70_000),
    *([], {}, [[]], [None], [1e9] * 20, {"": ""}, {"type": "image"}, {"a": {"a": {"a": {}}}}, ["x"] * 2000),
]
ODD_BODIES = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b'{"a":' * 3000,
    b'{"type": 1, "type": 2}',
    b"\x0a\xff\xff\x7f",
    b"0" * 300,
]
ODD_HEADERS = [
    *({"content-type": value} for value in ("text/plain", "application/x-protobuf", "", "application/json; q=x")),
    *({"content-encoding": value} for value in ("zstd", "gzip", "br", "identity, identity")),
    *({"accept": "application/x-protobuf"}, {"accept": "*/*;q=x"}, {"x-idempotency-key": "k" * 5000}),
    *({"x-api-key": value} for value in ("", "tml-1-x", "eyJhbGciOiJub25lIn0.e30.")),
    *({"host": value} for value in ("evil.example", "a b", "[::1", "localhost:99999999")),
    *({"origin": value} for value in ("null", "https://evil.example", "http://[")),
    *({"range": "bytes=0-0,1-1,-5"}, {"expect": "100-continue"}, {"accept-encoding": "gzip;q=0, zstd"}),
]
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]


@dataclass(frozen=True)
class Fuzzer:
    random: random.Random
    ids: list[Ids]

    def call(self, case_ids: Ids, route: tuple[str, str], number: int) -> tuple[str, Call]:
        """A request of `route` with something wrong, or nothing."""
        method, call = route[0], CASES[route](case_ids, number)
        for _ in range(self.random.choice((0, 1, 1, 2, 3))):
            method, call = self.random.choice((self.in_json, self.in_json, self.in_json, self.in_path, self.around))(
                method, call
            )
        return method, call

    def in_json(self, method: str, call: Call) -> tuple[str, Call]:
        if call.json is None:
            content = call.content or b""
            cut = self.random.randrange(len(content) + 1)
            return method, replace(call, content=content[:cut] + self.random.randbytes(3) + content[cut + 2 :])
        broken = copy.deepcopy(call.json)
        places = list(places_in(broken))
        if not places:
            return method, replace(call, json={self.word(): self.value()})
        holder, key = self.random.choice(places)
        match self.random.randrange(4):
            case 0 if isinstance(holder, dict):
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[self.word()] = self.value()
            case _:
                holder[key] = self.value()
        return method, replace(call, json=broken)

    def in_path(self, method: str, call: Call) -> tuple[str, Call]:
        segments = call.path.split("/")
        segments[self.random.randrange(1, len(segments))] = self.random.choice(
            (self.word(), quote(str(self.value())[:400].encode(errors="replace"), safe=""), "", "..", "*")
        )
        return method, replace(call, path="/".join(segments))

    def around(self, method: str, call: Call) -> tuple[str, Call]:
        match self.random.randrange(4):
            case 0:
                return self.random.choice(METHODS), call
            case 1:
                return method, replace(call, json=None, content=self.random.choice(ODD_BODIES))
            case 2:
                return method, replace(call, headers=call.headers | self.random.choice(ODD_HEADERS))
        name = self.random.choice(("limit", "offset", "access_scope", "expires", "signature", self.word()))
        return method, replace(
            call, params=call.params | {name: str(self.value())[:2000].encode(errors="replace").decode()}
        )

    def value(self) -> Any:
        ids = self.random.choice(self.ids)
        return self.random.choice((self.random.choice(ODD_VALUES), self.random.choice(list(vars(ids).values()))))

    def word(self) -> str:
        return "".join(self.random.choices(string.ascii_lowercase + "_", k=self.random.randrange(1, 9)))


def places_in(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every holder and key in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, content in list(items):
        yield value, key
        yield from places_in(content)


def encoded(call: Call) -> Call:
    """The call with its JSON as bytes, for the library would refuse to write numbers that are none."""
    if call.json is None:
        return call
    headers = {"content-type": "application/json"} | call.headers
    return replace(call, json=None, content=json.dumps(call.json).encode(), headers=headers)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    directory = tmp_path_factory.mktemp("a-secret-place")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCRIPTED_ENGINE_DIRECTORY", str(directory))
        with serving_scripted(directory, poll_hold_seconds=0.01, max_runs=100_000) as running:
            yield running


def complaint(response: httpx.Response, hidden: Path) -> str | None:
    """What is wrong with an answer, whatever the request was."""
    if 300 <= response.status_code < 400 and "/api/v1/archives/" not in response.headers["location"]:
        return "sends the client elsewhere"
    if response.status_code >= 500 and response.url.path != "/readyz":
        return f"status {response.status_code}"
    if response.elapsed.total_seconds() > SLOWEST_SECONDS:
        return f"took {response.elapsed.total_seconds():.1f} s"
    for telling in ("Traceback", "site-packages", "eztinker/", str(hidden)):
        if telling in response.text:
            return f"shows {telling}"
    has_body = response.status_code >= 400 and response.request.method != "HEAD"
    if has_body and not isinstance(response.json().get("detail"), str):
        return "has no detail"
    return None


@pytest.mark.conforms(6, 7)
def test_no_request_breaks_the_server_or_makes_it_talk(server: RunningServer):
    hidden = server.app.state.service.config.data_dir
    with server.client() as http:
        fuzzer = Fuzzer(random.Random(SEED), [unknown_ids(), unknown_ids()])
        routes = sorted(CASES)
        statuses: Counter[int] = Counter()
        for number in range(NUM_REQUESTS):
            if number % FRESH_EVERY == 0:  # requests that went well have ended and deleted some
                fuzzer.ids[0] = make_ids(http)
            method, call = fuzzer.call(fuzzer.random.choice(fuzzer.ids), routes[number % len(routes)], 100 + number)
            response = encoded(call).send(http, method)
            wrong = complaint(response, hidden)
            assert wrong is None, f"request {number}, {method} {call}: {wrong}: {response.text[:500]}"
            statuses[response.status_code] += 1
        assert http.get(f"{server.url}/healthz").json() == {"status": "ok"}
    assert statuses.keys() >= {200, 400, 401, 403, 404, 405, 410, 415, 422}, statuses
    assert statuses[200] > NUM_REQUESTS / 10, statuses
