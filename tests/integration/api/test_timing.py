"""How long a refusal takes, and what the log is asked for it, tells nothing of what others have."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from statistics import median
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, Engine, event

from eztinker.oplog.queries import Prepared
from tests.integration.api.test_tenants import ROUTES_AND_KINDS, Tenants, answer
from tests.route_cases import CASES, PREFIX, Ids, make_ids, tenant, unknown_ids
from tests.servers import API_KEY, RunningServer, key_of

NUM_PAIRS = 100
MAX_DIFFERENCE = 0.2
"""Of the medians, as a share. What is smaller shows in the statements that are run."""
ROUNDS = 3
"""A difference must show in each of them, the same way round; the machine has other things to do as well."""

ASKED = [
    ("GET", f"{PREFIX}/training_runs/{{model_id}}", "model_id"),
    ("POST", f"{PREFIX}/get_info", "model_id"),
    ("GET", f"{PREFIX}/training_runs/{{model_id}}/checkpoints", "model_id"),
    ("POST", f"{PREFIX}/weights_info", "training_path"),
    ("DELETE", f"{PREFIX}/training_runs/{{model_id}}/checkpoints/{{kind}}/{{name}}", "training_path"),
    ("POST", f"{PREFIX}/retrieve_future", "request_id"),
    ("GET", f"{PREFIX}/sessions/{{session_id}}", "session_id"),
    ("POST", f"{PREFIX}/session_heartbeat", "session_id"),
    ("GET", f"{PREFIX}/samplers/{{sampler_id}}", "sampler_id"),
    ("POST", f"{PREFIX}/asample", "sampler_id"),
]
Ask = Callable[[], httpx.Response]


@pytest.fixture(scope="module")
def tenants(server: RunningServer) -> Iterator[Tenants]:
    with tenant(server, "ann") as ann, tenant(server, "bob") as bob:
        yield Tenants(ann, make_ids(ann), bob, make_ids(bob))


@pytest.mark.parametrize(("method", "path", "kind"), ASKED)
def test_a_foreign_id_takes_as_long_as_an_unknown_one(tenants: Tenants, method: str, path: str, kind: str):
    def asks(value: str) -> Ask:
        call = CASES[method, path](replace(tenants.other_ids, **{kind: value}), 10**6)
        return lambda: call.send(tenants.other, method)

    foreign, unknown = (getattr(ids, kind) for ids in (tenants.owner_ids, unknown_ids()))
    assert asks(foreign)().status_code == 404
    assert tell_apart(asks(foreign), asks(unknown)) is None


def test_a_wrong_key_takes_as_long_as_a_malformed_one(server: RunningServer):
    real = key_of(server, "ann")
    with httpx.Client(base_url=server.url) as http:

        def asks(key: str) -> Ask:
            return lambda: http.get(f"{PREFIX}/sessions", headers={"x-api-key": key})

        number, secret = real.removeprefix("tml-").split("-", 1)
        changed = asks(f"tml-{number}-{secret[::-1]}")
        for other in (
            "nonsense",
            "tml-",
            API_KEY[:-1] + "x",
            f"tml-999{number}-{secret}",
            f"tml-{number}-{secret[:9]}",
        ):
            assert asks(other)().status_code == 401
            assert tell_apart(changed, asks(other)) is None, other


def test_a_difference_would_be_seen(tenants: Tenants):
    """Else the tests above would show nothing: a request that is followed by a short pause is told apart."""

    def ask() -> httpx.Response:
        return tenants.other.get("/training_runs/none")

    def slower() -> httpx.Response:
        started = time.perf_counter()
        response = ask()
        time.sleep((time.perf_counter() - started) * 2 * MAX_DIFFERENCE)
        return response

    assert tell_apart(slower, ask) is not None


def test_a_foreign_id_asks_the_log_what_an_unknown_one_asks(tenants: Tenants):
    """Statement by statement, on every route and for every kind of id."""
    numbers = iter(range(10**5, 10**6))

    def asked(method: str, path: str, kind: str, ids: Ids) -> list[str]:
        with statements() as run:
            call = CASES[method, path](replace(tenants.other_ids, **{kind: getattr(ids, kind)}), next(numbers))
            answer(tenants.other, method, call)
        return run

    for route, kind in ROUTES_AND_KINDS:
        for is_last in (False, False, True):  # the server's own housekeeping may come between
            foreign, unknown = (asked(*route, kind, ids) for ids in (tenants.owner_ids, unknown_ids()))
            if foreign == unknown:
                break
            assert not is_last, (route, kind, foreign, unknown)


def test_a_key_that_is_wrong_asks_the_log_nothing(server: RunningServer):
    real = key_of(server, "ann")
    for is_last in (False, False, True):  # the server's own housekeeping may come between
        with statements() as run:
            for key in (real + "x", "nonsense", "eyJhbGciOiJIUzI1NiIsImtpZCI6IjEifQ.e30.x"):
                httpx.get(f"{server.url}{PREFIX}/sessions", headers={"x-api-key": key})
        if not run:
            break
        assert not is_last, run


def tell_apart(first: Ask, second: Ask) -> list[float] | None:
    """By how much the first takes longer, in each of the rounds; None if a round shows no difference."""
    differences = []
    for _ in range(ROUNDS):
        differences.append(_difference(first, second))
        signs = {difference > 0 for difference in differences}
        if abs(differences[-1]) <= MAX_DIFFERENCE or len(signs) > 1:
            return None
    return differences


def _difference(first: Ask, second: Ask) -> float:
    """Of the medians, as a share of the second's; asked in turns, in random order."""
    seconds: dict[Ask, list[float]] = {first: [], second: []}
    order = [first, second]
    for _ in range(NUM_PAIRS):
        random.shuffle(order)
        for ask in order:
            started = time.perf_counter()
            ask()
            seconds[ask].append(time.perf_counter() - started)
    return median(seconds[first]) / median(seconds[second]) - 1


@contextmanager
def statements() -> Iterator[list[str]]:
    """Every SQL statement that is run within the block, without its values."""
    run: list[str] = []
    run_prepared = Prepared.run

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        run.append(statement)

    def note_prepared(prepared: Prepared, db: Connection, parameters: dict[str, Any]) -> Any:
        run.append(str(prepared.statement))
        return run_prepared(prepared, db, parameters)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Prepared, "run", note_prepared)
            yield run
    finally:
        event.remove(Engine, "before_cursor_execute", note)
