"""What the holder of a key may do with the key itself."""

from __future__ import annotations

import httpx

from tests.route_cases import tenant
from tests.servers import RunningServer


def test_a_key_buys_a_token_which_works_and_buys_no_other(server: RunningServer, http: httpx.Client):
    token = http.post("/auth/token").json()["jwt"]
    with server.client(**{"x-api-key": token}) as with_token:
        assert with_token.get("/auth/apikey/me").json() == http.get("/auth/apikey/me").json()
        refused = with_token.post("/auth/token")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "key_needed")


def test_a_key_says_whose_it_is(server: RunningServer, http: httpx.Client):
    assert http.get("/auth/apikey/me").json()["note"] == "the server's own key"
    with tenant(server, "ann") as ann:
        own = ann.get("/auth/apikey/me").json()
    assert own["details"]["user_details"] == {"email": "ann"}
    assert own["note"] == "issued by the operator"


def test_a_key_is_given_up_by_its_holder_and_the_servers_own_is_not(server: RunningServer, http: httpx.Client):
    with tenant(server, "ann") as ann:
        assert ann.delete("/auth/apikey/me").json() == {}
        assert ann.get("/auth/apikey/me").status_code == 401
    refused = http.delete("/auth/apikey/me")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "server_key")
    assert http.get("/auth/apikey/me").status_code == 200
