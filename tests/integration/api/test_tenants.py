"""Two owners on one server, over every route and every kind of id: each sees nothing of the other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

import eztinker.api
from tests.route_cases import CASES, KEYLESS, Call, Ids, make_ids, route_table, tenant, unknown_ids, without_ids
from tests.servers import RunningServer
from tests.wire import outcome

_numbers = itertools.count(100)
KINDS = [field.name for field in fields(Ids)]


@dataclass(frozen=True)
class Tenants:
    owner: httpx.Client
    owner_ids: Ids
    other: httpx.Client
    other_ids: Ids


@pytest.fixture(scope="module")
def tenants(server: RunningServer) -> Iterator[Tenants]:
    with tenant(server, "ann") as ann, tenant(server, "bob") as bob:
        yield Tenants(ann, make_ids(ann), bob, make_ids(bob))


def named_kinds(route: tuple[str, str]) -> list[str]:
    """The kinds of id that the route's request carries."""
    plain = unknown_ids()
    case = CASES[route]
    return [kind for kind in KINDS if case(plain, 1) != case(replace(plain, **{kind: f"tinker://{kind}/x/y"}), 1)]


NOTHING_DONE = ('{"sessions":[],"next_cursor":null}', "{}")
"""What a search and a cancellation answer."""
ROUTES_AND_KINDS = [(route, kind) for route in sorted(CASES) for kind in named_kinds(route)]


def test_every_route_has_a_case(server: RunningServer):
    assert route_table(server) == CASES.keys()
    sources = Path(eztinker.api.__file__).parent.rglob("*.py")
    assert not any("include_in_schema" in source.read_text() for source in sources), "a route hides from the table"


def test_every_id_kind_is_asked_for_by_some_route():
    assert {kind for _, kind in ROUTES_AND_KINDS} == set(KINDS)


@pytest.mark.conforms(2, 3)
@pytest.mark.parametrize("route", sorted(CASES))
def test_a_stranger_is_refused_before_anything_else(server: RunningServer, route: tuple[str, str]):
    with httpx.Client(base_url=server.url) as stranger:
        method, _ = route
        for call in (CASES[route](unknown_ids(), 1), Call(CASES[route](unknown_ids(), 1).path, content=b"{")):
            assert (call.send(stranger, method).status_code == 401) == (route not in KEYLESS)


@pytest.mark.conforms(19, 38)
@pytest.mark.parametrize(("route", "kind"), ROUTES_AND_KINDS, ids=lambda part: "".join(part))
def test_a_foreign_id_is_answered_like_an_unknown_one(tenants: Tenants, route: tuple[str, str], kind: str):
    answers = []
    for ids in (tenants.owner_ids, unknown_ids()):
        call = CASES[route](replace(tenants.other_ids, **{kind: getattr(ids, kind)}), next(_numbers))
        status, text = answer(tenants.other, route[0], call)
        assert status == 404 or '"category"' in text or text in NOTHING_DONE, (status, text)
        answers.append((status, without_ids(text, ids)))
    assert answers[0] == answers[1]


def test_nothing_of_the_owner_was_changed_or_shown(tenants: Tenants):
    """Runs the whole matrix once more between two looks at what the owner has."""
    before = all_of(tenants.owner)
    shown = ""
    for route, kind in ROUTES_AND_KINDS:
        call = CASES[route](replace(tenants.other_ids, **{kind: getattr(tenants.owner_ids, kind)}), next(_numbers))
        shown += without_ids(answer(tenants.other, route[0], call)[1], tenants.owner_ids)
    for listing in ("/sessions", "/training_runs", "/checkpoints"):
        shown += tenants.other.get(listing, params={"access_scope": "accessible"}).text
    assert all_of(tenants.owner) == before
    for value in vars(tenants.owner_ids).values():
        assert value not in shown
    assert '"ann"' not in shown


def test_an_owner_reaches_what_is_its_own_with_any_of_its_keys(server: RunningServer, tenants: Tenants):
    with tenant(server, "ann") as second_key:
        assert all_of(second_key) == all_of(tenants.owner)
        for route in (("POST", "/api/v1/get_info"), ("GET", "/api/v1/samplers/{sampler_id}")):
            assert CASES[route](tenants.owner_ids, 1).send(second_key, route[0]).status_code == 200


def answer(http: httpx.Client, method: str, call: Call) -> tuple[int, str]:
    """Status and text of what the call came to, of the future where there is one."""
    response = call.send(http, method)
    future = response.json().get("request_id") if response.status_code == 200 else None
    if future is not None:
        response = outcome(http, future)
    return response.status_code, response.text


def all_of(http: httpx.Client) -> list[Any]:
    """What the owner sees of everything it has."""
    sessions = http.get("/sessions", params={"limit": 1000}).json()["sessions"]
    listings = [http.get(path, params={"limit": 1000}).json() for path in ("/training_runs", "/checkpoints")]
    return [sessions, *(http.get(f"/sessions/{session_id}").json() for session_id in sessions), *listings]
