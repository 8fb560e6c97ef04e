"""Row 1: whoever sends one wrong key after another is refused unread, and nobody else notices."""

from __future__ import annotations

import sys
from typing import Any

import httpx
import pytest

from eztinker.service.accounts.access import KeyHolder, Keys
from tests.integration.api.test_timing import tell_apart
from tests.servers import API_KEY, RunningServer, ServeScripted, key_of
from tests.wire import new_session

LIMIT = 20
PATH = "/api/v1/sessions"


@pytest.fixture
def server(serve_scripted: ServeScripted) -> RunningServer:
    return serve_scripted(poll_hold_seconds=0.5, max_wrong_keys=LIMIT)


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every key that is hashed and compared."""
    keys: list[str] = []
    holder_of = Keys.holder_of

    def note(self: Keys, key: str) -> KeyHolder | None:
        keys.append(key)
        return holder_of(self, key)

    monkeypatch.setattr(Keys, "holder_of", note)
    return keys


def ask(server: RunningServer, key: str, **headers: str) -> httpx.Response:
    return httpx.get(f"{server.url}{PATH}", headers={"x-api-key": key} | headers)


def use_up(server: RunningServer) -> None:
    assert {ask(server, f"tml-guess-{number}").status_code for number in range(LIMIT)} == {401}


def test_guesses_beyond_the_limit_are_refused_unread(server: RunningServer, looked_up: list[str]):
    use_up(server)
    right = key_of(server, "ann")
    looked_up.clear()
    answers = {key: ask(server, key) for key in ("tml-guess", "nonsense", "", "x" * 60_000, right, right + "x")}
    assert looked_up == []
    assert {answer.status_code for answer in answers.values()} == {429}
    for answer in answers.values():
        body = answer.json()
        assert body["error"]["code"] == "too_many_wrong_keys"
        assert f"This address has sent {LIMIT} wrong keys in a minute; try again in " in body["detail"]
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert "x-should-retry" not in answer.headers


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has more than one loopback address")
def test_another_address_is_not_refused_and_a_key_that_is_right_there_passes_everywhere(server: RunningServer):
    use_up(server)
    right = key_of(server, "ann")
    assert ask(server, right).status_code == 429
    with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2")) as elsewhere:
        for key, status in (("tml-guess", 401), (right, 200)):
            assert elsewhere.get(f"{server.url}{PATH}", headers={"x-api-key": key}).status_code == status
    assert ask(server, right).status_code == 200


def test_whoever_works_goes_on_while_others_guess_at_the_same_address(server: RunningServer):
    key = key_of(server, "ann")
    token = httpx.post(f"{server.url}/api/v1/auth/token", headers={"x-api-key": key}).json()["jwt"]
    assert ask(server, token).status_code == 200
    use_up(server)
    assert [ask(server, each).status_code for each in (key, token, API_KEY)] == [200, 200, 429]


def test_a_header_is_no_other_address(server: RunningServer):
    for number in range(LIMIT):
        assert ask(server, "tml-guess", **{"x-forwarded-for": f"192.0.2.{number}"}).status_code == 401
    assert ask(server, "tml-guess", **{"x-forwarded-for": "192.0.2.200"}).status_code == 429


def test_tokens_for_the_weights_of_others_are_counted_too(server: RunningServer, looked_up: list[str]):
    """They are keys, so trying them is guessing keys, and whoever guesses has a right one already."""
    path, token = "tinker://nobody/weights/none", "weights_access_token"
    with server.client() as http:
        load = {"session_id": new_session(http), "model_seq_id": 0, "path": path, "optimizer": False}
        asks: list[tuple[str, dict[str, Any]]] = [("/load_weights", load), ("/copy_weights", {"source_path": path})]
        for number in range(LIMIT):
            endpoint, body = asks[number % 2]
            assert http.post(endpoint, json=body | {token: f"tml-guess-{number}"}).status_code == 422
        looked_up.clear()
        for endpoint, body in asks:
            assert http.post(endpoint, json=body | {token: "tml-guess"}).status_code == 429
        assert set(looked_up) == {API_KEY}
        assert http.get("/sessions").status_code == 200


def test_a_refused_key_takes_as_long_whatever_it_is(server: RunningServer):
    real, other = key_of(server, "ann"), key_of(server, "bob")
    use_up(server)
    with httpx.Client(base_url=server.url) as http:

        def answer(key: str) -> httpx.Response:
            return http.get(PATH, headers={"x-api-key": key})

        for key in (real, real[:-1] + "x", other):
            assert answer(key).status_code == 429
            assert tell_apart(lambda key=key: answer(key), lambda: answer("tml-nonsense")) is None
