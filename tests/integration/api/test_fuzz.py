"""Thousands of requests that are nearly right, over every route: the server answers each, at once, and tells nothing.

Each starts as the well-formed request of its route, in JSON or protobuf, and is then broken in one to three places, by
values of odd kinds, sizes, depths and ranges. The seed fixes them all. EZTINKER_FULL_SIZE=1 sends ten thousand.
"""

from __future__ import annotations

import copy
import ctypes
import gc
import os
import random
import string
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from google.protobuf.message import DecodeError

from eztinker.protocol import wire_pb2
from tests.json_places import encode, holder_of, nested, places_in
from tests.route_cases import CASES, Call, Ids, make_ids, unknown_ids
from tests.servers import RunningServer, replaced, scripted_marks_in, serving_scripted
from tests.wire import PROTOBUF

NUM_REQUESTS = 10_000 if os.environ.get("EZTINKER_FULL_SIZE") == "1" else 2_500
FRESH_EVERY = 250
SEED = 20_240_607
SLOWEST_SECONDS = 5.0
MAX_ANSWER_BYTES = 20_000
"""Of a refusal: it says little of what it is about."""
MAX_GROWTH_KB = 50 << 10
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
    *(2**31 - 1, -(2**31) - 1, 2**62, 2**63 // 10**9, 2**64 - 1, 2**64, 10**400, -1e308, 5e-324),
    *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "9999-12-31", "0001-01-01", "2026-02-30", "1e9", "٣"),
    *(nested(depth, in_lists=in_lists) for depth in (31, 33, 64, 255, 990, 1020) for in_lists in (False, True)),
    *("x" * 300_000, ["ab"] * 30_000, [[]] * 30_000, [{}] * 30_000, {str(each): each for each in range(20_000)}),
    *([2**62] * 20_000, [1.5] * 100_000, [0] * 200_000, "9" * 4000, "9" * 5000),
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
            if call.headers.get("content-type") == PROTOBUF and self.random.random() < 0.7:
                return method, replace(call, content=self.in_protobuf(content))
            cut = self.random.randrange(len(content) + 1)
            return method, replace(call, content=content[:cut] + self.random.randbytes(3) + content[cut + 2 :])
        broken = copy.deepcopy(call.json)
        places = list(places_in(broken))
        if not places:
            return method, replace(call, json={self.word(): self.value()})
        place = self.random.choice(places)
        holder, key = holder_of(broken, place), place[-1]
        match self.random.randrange(4):
            case 0 if isinstance(holder, dict):
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[self.word()] = self.value()
            case _:
                holder[key] = self.value()
        return method, replace(call, json=broken)

    def in_protobuf(self, content: bytes) -> bytes:
        """With an odd value in one of its fields, or very many of one."""
        try:
            message = wire_pb2.ForwardBackwardRequest.FromString(content)
        except DecodeError:  # broken before
            return content
        self.random.choice(ODD_MESSAGES)(message, self.random)
        return message.SerializeToString()

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


def _odd_shape(message: wire_pb2.ForwardBackwardRequest, random: random.Random) -> None:
    for datum in message.data:
        for tensor in datum.loss_fn_inputs.values():
            sizes = (0, 1, -1, 2**31, 2**62, 2**63 - 1, -(2**63))
            tensor.shape[:] = random.choices(sizes, k=random.choice((0, 1, 2, 3, 9, 5_000)))


def _odd_bytes(message: wire_pb2.ForwardBackwardRequest, random: random.Random) -> None:
    for datum in message.data:
        for tensor in datum.loss_fn_inputs.values():
            raw = random.choice((b"", b"x", bytes(8), b"\xff" * 8, b"\0\0\xc0\x7f", bytes(1 << 18)))
            if random.random() < 0.5:
                tensor.dense = raw
            else:
                tensor.sparse_csr.values = tensor.sparse_csr.crow_indices = tensor.sparse_csr.col_indices = raw
            tensor.dtype = random.choice((0, 1, 2, 3, 4, 99, -1))  # pyright: ignore[reportAttributeAccessIssue]


def _odd_identity(message: wire_pb2.ForwardBackwardRequest, random: random.Random) -> None:
    message.seq_id = random.choice((0, -1, 1, 2**31 - 1, -(2**31)))
    message.model_id = random.choice((message.model_id, "", "\0", "x" * 100_000, "\U0001f600"))


def _odd_loss(message: wire_pb2.ForwardBackwardRequest, random: random.Random) -> None:
    message.loss_fn = random.choice(("ppo", "x" * 100_000, "", "\0", "custom"))
    for number in (float("nan"), float("inf"), 1e308):
        message.loss_fn_config_v2[random.choice(("clip_low_threshold", "x" * 10_000, ""))].number = number
    for index in range(random.choice((0, 1, 5_000))):
        message.loss_fn_config[str(index)] = 0.5


def _odd_chunks(message: wire_pb2.ForwardBackwardRequest, random: random.Random) -> None:
    for datum in message.data[:3]:
        datum.model_input.add().image.data = bytes(random.choice((0, 100_000)))
        datum.model_input.add().encoded_text.tokens = random.choice((b"x", b"\xff" * 4, bytes(1 << 18), b""))


def _many(message: wire_pb2.ForwardBackwardRequest, random: random.Random) -> None:
    holder = random.choice((message.data, message.data.add().model_input, message.data.add().model_input_spans))
    for _ in range(random.choice((1, 5_000, 50_000))):
        holder.add()


ODD_MESSAGES: list[Callable[[wire_pb2.ForwardBackwardRequest, random.Random], None]] = [
    *(_odd_shape, _odd_bytes, _odd_identity, _odd_loss, _odd_chunks, _many),
]


def encoded(call: Call) -> Call:
    """The call with its JSON as bytes, for the library would refuse to write numbers that are none."""
    if call.json is None:
        return call
    headers = {"content-type": "application/json"} | call.headers
    return replace(call, json=None, content=encode(call.json), headers=headers)


def memory_kb() -> int:
    """Of this process, which is the server's too, once what is free is given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    directory = tmp_path_factory.mktemp("a-secret-place")
    each_set_of_ids_begins_one = {"eztinker.service.checkpoints.uploads.MAX_UNFINISHED": 1_000}
    with (
        scripted_marks_in(directory),
        replaced(each_set_of_ids_begins_one),
        serving_scripted(directory, poll_hold_seconds=0.01, max_runs=100_000) as running,
    ):
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
    if response.status_code >= 400 and len(response.content) > MAX_ANSWER_BYTES:
        return f"says {len(response.content)} bytes"
    has_body = response.status_code >= 400 and response.request.method != "HEAD"
    if has_body and not isinstance(response.json().get("detail"), str):
        return "has no detail"
    return None


@pytest.mark.timeout(1200 if NUM_REQUESTS == 10_000 else 300)
@pytest.mark.conforms(6, 7)
def test_no_request_breaks_the_server_or_makes_it_talk(server: RunningServer):
    hidden = server.app.state.service.config.data_dir
    with server.client() as http:
        fuzzer = Fuzzer(random.Random(SEED), [unknown_ids(), unknown_ids()])
        routes = sorted(CASES)
        statuses: Counter[int] = Counter()
        memory_before = memory_kb() if sys.platform == "linux" else None
        for number in range(NUM_REQUESTS):
            if number % FRESH_EVERY == 0:  # requests that went well have ended and deleted some
                fuzzer.ids[0] = make_ids(http)
            method, call = fuzzer.call(fuzzer.random.choice(fuzzer.ids), routes[number % len(routes)], 100 + number)
            response = encoded(call).send(http, method)
            wrong = complaint(response, hidden)
            assert wrong is None, f"request {number}, {method} {str(call)[:2000]}: {wrong}: {response.text[:500]}"
            statuses[response.status_code] += 1
        assert http.get(f"{server.url}/healthz").json() == {"status": "ok"}
    assert statuses.keys() >= {200, 400, 401, 403, 404, 405, 410, 415, 422}, statuses
    assert statuses[200] > NUM_REQUESTS / 10, statuses
    if memory_before is not None:
        grown = memory_kb() - memory_before
        print(f"{NUM_REQUESTS} requests, {dict(statuses)}, {grown >> 10} MB more memory")
        assert grown < MAX_GROWTH_KB, f"{grown} KB"
