"""Depths, numbers and dates at the ends of their ranges, on every route: an answer, and never one of 500."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from eztinker.protocol.json_bodies import MAX_DEPTH, MAX_STRINGS, MAX_VALUES
from eztinker.protocol.training_codec import MAX_DATA
from eztinker.service.sampling.completions import MAX_CLONE
from tests.json_places import encode, nested, places_in, with_place
from tests.refusals import refused
from tests.route_cases import CASES, Ids, make_ids
from tests.servers import RunningServer
from tests.wire import PROTOBUF, new_run, new_sampler, new_session, outcome

TOO_DEEP = f"may be nested {MAX_DEPTH} deep"
DEPTHS = [MAX_DEPTH - 1, MAX_DEPTH, 64, 127, 254, 255, 256, 499, 990, 1020, 1024]
NUMBERS = [
    *(2**31 - 1, 2**31, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**70, -1, -(2**31) - 1, -(2**63)),
    *(-(2**63) - 1, 10**18, 10**400, 1e308, -1e308, 5e-324, 0.1),
]


@pytest.fixture(scope="module")
def ids(server: RunningServer) -> Iterator[Ids]:
    with server.client() as http:
        yield make_ids(http)


def routes_of_json(ids: Ids) -> list[tuple[str, str]]:
    return sorted(route for route, case in CASES.items() if case(ids, 1).json is not None)


def send(http: httpx.Client, method: str, path: str, body: Any) -> httpx.Response:
    headers = {"content-type": "application/json"}
    return http.request(method, f"{http.base_url.copy_with(path='')}{path}", content=encode(body), headers=headers)


def test_no_depth_at_any_place_of_any_route_ends_in_500(http: httpx.Client, ids: Ids):
    numbers = iter(range(10**4, 10**9))
    for method, path in routes_of_json(ids):
        reads = not path.endswith(("/client/config", "/client/dynamic_config", "/telemetry", "/auth/token"))
        call = CASES[method, path](ids, next(numbers))
        for place in [(), *places_in(call.json)]:
            for depth in (MAX_DEPTH - 8, MAX_DEPTH, 255, 1000):
                call = CASES[method, path](ids, next(numbers))
                body = with_place(call.json, place, nested(depth))
                response = send(http, method, call.path, body)
                assert response.status_code < 500, (path, place, depth, response.text)
                if reads and depth >= MAX_DEPTH and place != ():
                    refused(response, 400, TOO_DEEP)


@pytest.mark.parametrize("in_lists", [False, True], ids=["objects", "lists"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_depth_is_bounded_once_for_all(http: httpx.Client, ids: Ids, depth: int, in_lists: bool):
    metadata = {"a": nested(depth - 2, in_lists=in_lists)}  # within it and the body
    numbers = iter(range(10**6 + 100 * depth + 50 * in_lists, 10**9))
    for endpoint, fields in (
        ("/create_session", {"user_metadata": metadata}),
        ("/create_model", {"model_seq_id": next(numbers), "base_model": "tiny", "user_metadata": metadata}),
        ("/create_model", {"model_seq_id": next(numbers), "base_model": "tiny", "optimizer_config": metadata}),
        (
            "/load_weights",
            {"model_seq_id": next(numbers), "path": ids.training_path, "optimizer": True, "user_metadata": metadata},
        ),
    ):
        body = fields if endpoint == "/create_session" else {"session_id": ids.session_id} | fields
        response = send(http, "POST", f"/api/v1{endpoint}", body)
        if depth <= MAX_DEPTH:
            assert response.status_code == 200, response.text
        else:
            refused(response, 400, TOO_DEEP)
    assert http.get(f"/sessions/{ids.session_id}").status_code == 200


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_brackets_that_never_close_are_refused_whatever_their_number(http: httpx.Client, opening: bytes):
    for number in (10, 900, 1100, 20_000, 150_000):
        response = http.post("/create_session", content=(b'{"a":' + opening * number)[: 1 << 20])
        assert response.status_code in (400, 413), response.text


def test_no_number_at_any_place_of_any_route_ends_in_500(http: httpx.Client, ids: Ids):
    numbers = iter(range(10**7, 10**9))
    for method, path in routes_of_json(ids):
        for place in places_in(CASES[method, path](ids, 1).json):
            for value in NUMBERS:
                call = CASES[method, path](ids, next(numbers))
                response = send(http, method, call.path, with_place(call.json, place, value))
                assert response.status_code < 500, (path, place, value, response.text)


def test_no_number_in_any_parameter_of_any_route_ends_in_500(server: RunningServer, http: httpx.Client, ids: Ids):
    values = [str(value) for value in NUMBERS] + [
        "9" * 4000,
        "9" * 5000,
        "-0",
        "1_0",
        "٣",
        "0x10",
        "1e5",
        "nan",
        "inf",
        "",
    ]
    for (method, path), case in sorted(CASES.items()):
        documented = server.app.openapi()["paths"][path][method.lower()].get("parameters", [])
        for name in (parameter["name"] for parameter in documented if parameter["in"] == "query"):
            for value in values:
                call = case(ids, 10**8)
                response = http.request(
                    method,
                    f"{http.base_url.copy_with(path='')}{call.path}",
                    params=call.params | {name: value},
                    content=b"no archive" if call.content else None,
                )
                assert response.status_code < 500, (path, name, value, response.text)


DAYS = {
    "9999-12-31": 200,
    "9999-12-30": 200,
    "0001-01-01": 200,
    "0000-01-01": 422,
    "10000-01-01": 422,
    "2026-02-29": 422,
    "2028-02-29": 200,
    "-0001-01-01": 422,
    "99999999999999": 422,
}


@pytest.mark.parametrize("day", DAYS)
def test_every_day_of_the_calendar_has_an_audit_log(http: httpx.Client, day: str):
    response = http.get("/audit", params={"day": day})
    assert response.status_code == DAYS[day], response.text
    if DAYS[day] == 200:
        assert response.json() == {"entries": []}


MOMENTS = [
    *(
        "0001-01-01T00:00:00+14:00",
        "0001-01-01T00:00:00+23:59",
        "0001-01-01T13:59:59+14:00",
        "0001-01-01T14:00:00+14:00",
    ),
    *("9999-12-31T23:59:59-14:00", "9999-12-31T23:59:59.999999-00:01", "9999-12-31T10:00:00-14:00"),
    *("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"),
]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_cursor_may_be_any_moment_also_one_that_has_no_name_in_utc(http: httpx.Client, ids: Ids, moment: str):
    response = http.post("/sessions/search", json={"cursor": {"last_created_at": moment, "last_session_id": "x"}})
    assert response.status_code == 200, response.text
    found = response.json()["sessions"]
    assert bool(found) == moment.startswith(
        "9999"
    )  # all sessions are older than that, and none is older than the first


@pytest.mark.parametrize("start", MOMENTS)
@pytest.mark.parametrize("end", MOMENTS)
def test_a_window_of_usage_may_end_at_the_ends_of_the_calendar(http: httpx.Client, start: str, end: str):
    response = http.get("/billing/usage/events", params={"starting_on": start, "ending_before": end})
    assert response.status_code in (200, 422), response.text


@pytest.mark.parametrize(
    ("target", "cursor", "status"),
    [
        (MAX_CLONE, 2**63 - 1, 200),
        (MAX_CLONE + 1, 0, 422),
        (2**53, 0, 422),
        (2**63 - 1, 0, 422),
        (2**63, 0, 422),
        (-1, 0, 422),
        (0, 2**63, 422),
        (0, 2**64, 422),
        (0, -1, 422),
    ],
)
def test_numbers_of_clients_and_cursors_fit_the_log(
    http: httpx.Client, ids: Ids, target: int, cursor: int, status: int
):
    body = {
        "target": {"sampling_session_id": ids.sampler_id, "cloned_sampler_id": target},
        "prev_cursor": cursor,
        "timeout": 0,
    }
    response = http.post("/retrieve_futures", json=body)
    assert response.status_code == status, response.text
    assert status == 200 or "between 0 and" in response.json()["detail"] or "int" in response.json()["detail"]


def test_a_token_whose_header_is_nested_is_a_wrong_key(server: RunningServer):
    for depth in (100, 980, 5000):
        header = json.dumps({"alg": "HS256"})[:-1] + ', "kid": ' + "[" * depth + "]" * depth + "}"
        token = base64.urlsafe_b64encode(header.encode()).rstrip(b"=").decode() + ".e30.eHh4"
        with server.client(**{"x-api-key": token}) as http:
            assert http.get("/sessions").status_code == 401


# Lists that a small body makes large.


def empty_data(number: int) -> bytes:
    return b"\x0a\x01m\x10\x01" + b"\x1a\x00" * number


def test_data_are_counted_before_they_are_made(http: httpx.Client):
    run = new_run(http)
    message = b"\x0a" + bytes([len(run)]) + run.encode() + b"\x10\x01" + b"\x1a\x00" * (MAX_DATA + 1)
    response = http.post("/forward_backward", content=message, headers={"content-type": PROTOBUF})
    assert f"A request needs 1 to {MAX_DATA} data, got {MAX_DATA + 1}" in failure_of(http, response)
    datum = {"model_input": {"chunks": []}, "loss_fn_inputs": {}}
    body = {"model_id": run, "seq_id": 2, "forward_backward_input": {"data": [datum] * (MAX_DATA + 1), "loss_fn": "x"}}
    assert f"got {MAX_DATA + 1}" in failure_of(http, http.post("/forward_backward", json=body))


def failure_of(http: httpx.Client, response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    failure = outcome(http, response.json()["request_id"]).json()
    assert failure["category"] == "user"
    return failure["error"]


@pytest.mark.parametrize(
    "body",
    [
        empty_data(2_000_000),
        b"\x1a\x02\x0a\x00" * 1_000_000,
        b"\x1a" + b"\x80\x89\x7a" + b"\x0a\x00" * 1_000_000,
        b"\x10\x01" * 1_000_000,
        b"\x2a\x00" * 1_000_000,
    ],
    ids=["data", "data of a chunk each", "chunks of one datum", "scalars", "entries of a map"],
)
def test_a_small_body_of_many_messages_is_refused_unmade(http: httpx.Client, body: bytes):
    refused(
        http.post("/forward_backward", content=body, headers={"content-type": PROTOBUF}), 413, "fields; send the data"
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"a":[' + b"[]," * 200_000 + b"[]]}", "objects and lists"),
        (b'{"a":[' + b'"",' * (MAX_STRINGS + 1) + b'""]}', "names and strings"),
        (b'{"a":[' + b"1," * (MAX_VALUES + 1) + b"1]}", "values"),
    ],
)
def test_a_json_body_of_many_parts_is_refused_unmade(http: httpx.Client, content: bytes, sentence: str):
    headers = {"content-type": "application/json"}
    refused(http.post("/asample", content=content, headers=headers), 413, f"{sentence}; send it in parts")


@pytest.mark.parametrize(
    "field", ["retrieved_request_ids", "tags", "age_encryption_recipients", "project_ids", "statuses"]
)
def test_a_list_of_very_many_is_answered_shortly(http: httpx.Client, ids: Ids, field: str):
    bodies: dict[str, tuple[str, dict[str, Any]]] = {
        "retrieved_request_ids": (
            "/retrieve_futures",
            {"target": {"sampling_session_id": ids.sampler_id}, "timeout": 0},
        ),
        "tags": ("/create_session", {}),
        "age_encryption_recipients": ("/save_weights_external", {"model_id": ids.model_id, "seq_id": 99, "path": "x"}),
        "project_ids": ("/sessions/search", {}),
        "statuses": ("/sessions/search", {}),
    }
    endpoint, body = bodies[field]
    many: list[Any] = [{"type": "active"}] * 20_000 if field == "statuses" else ["ab"] * 150_000
    response = http.post(endpoint, json=body | {field: many})
    assert response.status_code < 500, response.text
    assert len(response.content) < 10_000


def test_a_shape_of_very_many_dimensions_is_not_multiplied(http: httpx.Client):
    run = new_run(http)
    tensor = {"data": [1.0], "dtype": "float32", "shape": [2**62] * 100_000}
    datum = {"model_input": {"chunks": [{"tokens": [10]}]}, "loss_fn_inputs": {"weights": tensor}}
    body = {"model_id": run, "seq_id": 1, "forward_backward_input": {"data": [datum], "loss_fn": "cross_entropy"}}
    assert "A tensor may have 4 dimensions, got 100000" in failure_of(http, http.post("/forward_backward", json=body))
    sample = {
        "sampling_session_id": new_sampler(http),
        "seq_id": 0,
        "prompt": {"chunks": [{"tokens": [10, 11]}]},
        "sampling_params": {"max_tokens": 1},
        "target_prompt_logprobs": tensor | {"dtype": "int64", "data": [1]},
    }
    response = http.post("/asample", json=sample)
    refused(response, 422, "target_prompt_logprobs must be an int64 tensor")
    assert len(response.content) < 1000


def test_names_that_are_many_take_no_longer_to_compare(http: httpx.Client):
    """The last of 80,000 names repeats the one before it: compared each with each, they take a minute."""
    names = b",".join(b'"a%d":1' % number for number in range(80_000))
    refused(http.post("/create_session", content=b"{" + names + b',"a79999":1}'), 400, "names 'a79999' more than once")


def test_the_words_of_a_refusal_are_few_whatever_it_is_about(http: httpx.Client):
    run = new_run(http)
    name = "x" * 500_000
    batch = {"data": [], "loss_fn": name}
    body = {"model_id": run, "seq_id": 1, "forward_backward_input": batch}
    assert len(failure_of(http, http.post("/forward_backward", json=body))) <= 2000
    body = {"session_id": new_session(http), "sampling_session_seq_id": 0, "base_model": "y" * 1024}
    assert len(http.post("/create_sampling_session", json=body).content) < 5000
