"""Who is asking: keys, tokens, and one answer for every way in which they may be wrong."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from eztinker.api.auth import API_PREFIX, Holder, Owner, ServiceDep, router_with_key, router_without_key
from eztinker.api.error_responses import install_error_handlers
from eztinker.api.wrong_keys import WrongKeys
from eztinker.keys.issued_keys import issue_key
from eztinker.service.accounts.access import Keys
from eztinker.service.accounts.tokens import Tokens
from eztinker.service.clock import Clock

SERVER_KEY = "tml-the-servers-own"
LIMIT = 5


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    """An application of two routes, with real keys and tokens."""
    router, open_router = router_with_key(), router_without_key()

    @router.get("/me")
    async def me(owner: Owner, holder: Holder, service: ServiceDep) -> dict[str, object]:
        return {"owner": owner, "key_id": holder.key_id, "same": service is app.state.service}

    @open_router.get("/open")
    async def everybody() -> str:
        return "come in"

    app = FastAPI()
    keys = Keys(SERVER_KEY, tmp_path)
    tokens = Tokens(b"a secret that is long enough for its use", keys, Clock())
    app.state.service = SimpleNamespace(keys=keys, tokens=tokens)
    app.state.wrong_keys = WrongKeys(LIMIT)
    install_error_handlers(app)
    app.include_router(router)
    app.include_router(open_router)
    return app


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client


def ask(client: TestClient, key: str | None) -> Any:
    return client.get(f"{API_PREFIX}/me", headers={} if key is None else {"x-api-key": key})


def test_the_servers_key_an_issued_one_and_a_token_of_either_are_told_apart(
    client: TestClient, app: FastAPI, tmp_path: Path
):
    issued = issue_key(tmp_path, "ann", datetime.now(UTC)).key
    keys: Keys = app.state.service.keys
    for key, owner in ((SERVER_KEY, "local"), (issued, "ann")):
        holder = keys.holder_of(key)
        assert holder is not None
        for credential in (key, app.state.service.tokens.issue(holder)):
            assert ask(client, credential).json() == {"owner": owner, "key_id": holder.key_id, "same": True}


@pytest.mark.parametrize("key", [None, "", "tml-", "tml-another", SERVER_KEY + "x", SERVER_KEY[:-1], "nothing like it"])
def test_each_wrong_key_gets_the_same_answer(client: TestClient, key: str | None):
    answer = ask(client, key)
    assert answer.status_code == 401
    assert answer.json() == ask(client, "tml-wrong").json()
    assert answer.json()["error"]["code"] == "unauthorized"
    assert "www-authenticate" not in answer.headers


def test_a_wrong_token_tells_the_client_to_exchange_its_key_again(client: TestClient):
    answer = ask(client, "eyJhbGciOiJIUzI1NiJ9.e30.forged")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'


def test_beyond_the_limit_wrong_keys_are_not_looked_at_and_the_right_one_still_is(client: TestClient):
    assert ask(client, SERVER_KEY).status_code == 200
    statuses = [ask(client, f"tml-{number}").status_code for number in range(LIMIT + 2)]
    assert statuses == [401] * LIMIT + [429] * 2
    assert ask(client, SERVER_KEY).status_code == 200


def test_a_route_that_something_else_guards_asks_for_no_key(client: TestClient):
    assert client.get(f"{API_PREFIX}/open").json() == "come in"
