"""What the server does at this moment, and with what."""

from __future__ import annotations

import os

import httpx

from eztinker import __version__
from eztinker.api.routes.status import _engine
from tests.route_cases import tenant
from tests.servers import RunningServer, wait_until
from tests.wire import new_run, save


def test_the_status_names_versions_models_and_the_engine(http: httpx.Client):
    wait_until(lambda: http.get("/status").json()["engine"]["state"] == "ready")
    status = http.get("/status").json()
    assert (status["version"], status["models"]) == (__version__, ["tiny"])
    engine = status["engine"]
    assert (engine["device"], engine["dtype"], engine["num_threads"]) == ("cpu", "float32", 1)
    assert engine["pid"] != os.getpid()
    os.kill(engine["pid"], 0)  # raises if there is no such process
    assert status["memory_bytes"] > 1 << 20
    assert (status["queue"], status["activity"]) == (0, {"samples": 0, "training": 0})


def test_runs_and_checkpoints_are_counted_for_the_caller_alone(server: RunningServer, http: httpx.Client):
    def counted(client: httpx.Client) -> tuple[int, int]:
        status = client.get("/status").json()
        return status["runs"], status["checkpoints"]

    num_runs, num_checkpoints = counted(http)
    save(http, "/save_weights", new_run(http), 1, path="a")
    assert counted(http) == (num_runs + 1, num_checkpoints + 1)
    with tenant(server, "bob") as bob:
        assert counted(bob) == (0, 0)


def test_an_engine_that_is_not_there_yet_is_starting():
    assert _engine(None) == {"state": "starting"}
