"""A secret that is given in the wrong place is said nowhere: not in a refusal, a failed future or the log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import httpx
import pyrage
import pytest

from eztinker.redaction import HIDDEN
from tests.integration.api.test_raw_http import connect, get
from tests.json_places import encode, places_in, with_place
from tests.refusals import failed, refused
from tests.route_cases import CASES, Call, Ids, make_ids
from tests.servers import RunningServer, key_of
from tests.wire import new_run, new_sampler, outcome, sample_body


@pytest.fixture(scope="module")
def ids(server: RunningServer) -> Iterator[Ids]:
    with server.client() as http:
        yield make_ids(http)


@pytest.fixture(scope="module")
def secrets(server: RunningServer) -> dict[str, str]:
    key = key_of(server, "ann")
    token = httpx.post(f"{server.url}/api/v1/auth/token", headers={"x-api-key": key}).json()["jwt"]
    identity = str(pyrage.x25519.Identity.generate())  # type: ignore[attr-defined]
    assert identity.startswith("AGE-SECRET-KEY-1")
    return {"a key": key, "a token": token, "an age identity": identity}


def is_silent(http: httpx.Client, response: httpx.Response, secret: str) -> bool:
    """Whether neither the answer nor, if it is a future, its outcome says the secret. What went well may say it."""
    if response.status_code == 200 and response.headers["content-type"] == "application/json":
        request_id = response.json().get("request_id")
        if not isinstance(request_id, str):
            return True
        response = http.post("/retrieve_future", json={"request_id": request_id})  # what was refused is there at once
        if response.status_code == 200 and b'"error"' not in response.content:
            return True
    middle = secret[12:-12]
    return middle not in response.text and all(middle not in value for value in response.headers.values())


def places_of(call: Call, secret: str) -> Iterator[Call]:
    """`call` with the secret in each place in turn: of the body, the path, the query and the head."""
    for place in places_in(call.json):
        yield replace(call, json=with_place(call.json, place, secret))
    segments = call.path.split("/")
    for index in range(1, len(segments)):
        yield replace(call, path="/".join([*segments[:index], secret, *segments[index + 1 :]]))
    for name in (*call.params, "limit", "day", "expires", "starting_on", secret):
        yield replace(call, params=call.params | {name: secret})
    for name in ("content-type", "content-encoding", "accept", "authorization", "x-idempotency-key", "range", "host"):
        yield replace(call, headers=call.headers | {name: secret})
    if call.json is not None:
        yield replace(call, json={secret: 1})
        yield replace(call, json={secret: {secret: secret}})
        yield replace(call, json=None, content=f'{{"{secret}": 1, "{secret}": 2}}'.encode())
        yield replace(call, json=None, content=secret.encode())


@pytest.mark.parametrize("kind", ["a key", "a token", "an age identity"])
def test_no_route_says_a_secret_that_was_given_anywhere(
    http: httpx.Client, ids: Ids, secrets: dict[str, str], kind: str, capfd: pytest.CaptureFixture[str]
):
    secret = secrets[kind]
    numbers = iter(range(10**5 + 10**4 * len(kind), 10**9))
    for (method, _), case in sorted(CASES.items()):
        for call in places_of(case(ids, next(numbers)), secret):
            if call.json is not None:
                headers = {"content-type": "application/json"} | call.headers
                call = replace(call, json=None, content=encode(call.json), headers=headers)
            assert is_silent(http, call.send(http, method), secret), (method, call)
    assert secret[12:-12] not in "".join(capfd.readouterr())


def test_a_secret_key_given_as_recipient_is_not_said_but_named_for_what_it_is(
    http: httpx.Client, secrets: dict[str, str]
):
    run = new_run(http)
    body = {"model_id": run, "seq_id": 1, "path": "x", "age_encryption_recipients": [secrets["an age identity"]]}
    failed(http, http.post("/save_weights_external", json=body), "got a secret key; give the public one")
    ssh = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH PRIVATE KEY-----"
    body |= {"seq_id": 2, "age_encryption_recipients": [ssh]}
    failed(http, http.post("/save_weights_external", json=body), "got a secret key; give the public one")
    body |= {"seq_id": 3, "age_encryption_recipients": ["age1nothing"]}
    failed(http, http.post("/save_weights_external", json=body), "got 'age1nothing'")


def test_a_key_is_no_name_of_a_checkpoint_for_names_are_listed(http: httpx.Client, secrets: dict[str, str]):
    run = new_run(http)
    body = {"model_id": run, "seq_id": 1, "path": secrets["a key"]}
    failed(http, http.post("/save_weights", json=body), "this one looks like a key")
    body = {"model_id": run, "seq_id": 2, "path": "tml-step-40"}  # only begins like one
    assert (
        outcome(http, http.post("/save_weights", json=body).json()["request_id"]).json()["path"].endswith("tml-step-40")
    )


def test_hiding_leaves_the_rest_of_the_sentence(http: httpx.Client, secrets: dict[str, str]):
    refused(http.get(f"/sessions/{secrets['a key']}"), 404, f"No such session '{HIDDEN}'")
    body = sample_body(new_sampler(http)) | {secrets["a token"]: 1}
    refused(http.post("/asample", json=body), 422, f"Unknown fields in the request: {HIDDEN}")


def test_requests_that_are_no_http_cannot_fill_the_log(server: RunningServer, capfd: pytest.CaptureFixture[str]):
    for number in range(300):
        with connect(server) as connection:
            connection.sendall(b"\x16\x03\x01 %d no HTTP\r\n\r\n" % number)
            connection.recv(1 << 12)
        with connect(server) as connection:
            connection.sendall(
                get(b"/healthz").replace(b"Connection: close", b"Connection: upgrade\r\nUpgrade: websocket")
            )
            connection.recv(1 << 12)
    assert len(capfd.readouterr().err.splitlines()) < 30
