"""Runs by the ids and names that users know."""

from __future__ import annotations

import httpx

from tests.route_cases import tenant
from tests.servers import RunningServer
from tests.wire import new_run, optim_step, outcome, save


def test_a_run_tells_what_it_has_come_to(http: httpx.Client):
    model_id = new_run(http)
    outcome(http, optim_step(http, model_id, 1, learning_rate=1e-3))
    save(http, "/save_weights", model_id, 2, path="a")
    run = http.get(f"/runs/{model_id}").json()
    assert run["model_ids"] == [model_id]
    assert (run["base_model"], run["lora_rank"], run["num_steps"]) == ("tiny", 4, 1)
    assert run["last_checkpoint"]["tinker_path"] == f"tinker://{model_id}/weights/a"
    assert (run["name"], run["note"]) == (None, None)
    assert http.get(f"/runs/{run['run_id']}").json() == run
    newest = http.get("/runs", params={"limit": 1}).json()
    assert newest["runs"] == [run]
    assert newest["cursor"]["total_count"] >= 1


def test_a_label_is_given_kept_and_taken_away_field_by_field(http: httpx.Client):
    run_id = http.get(f"/runs/{new_run(http)}").json()["run_id"]

    def labelled(**fields: str | None) -> tuple[str | None, str | None]:
        run = http.patch(f"/runs/{run_id}", json=fields).json()
        return run["name"], run["note"]

    assert labelled(name="mine", note="first try") == ("mine", "first try")
    assert labelled(note="second try") == ("mine", "second try")
    assert labelled(name=None) == (None, "second try")
    assert labelled() == (None, "second try")


def test_a_run_of_others_is_not_there(server: RunningServer, http: httpx.Client):
    run = new_run(http)
    with tenant(server, "bob") as bob:
        assert bob.get(f"/runs/{run}").status_code == 404
        assert bob.patch(f"/runs/{run}", json={"name": "taken"}).status_code == 404
        assert bob.get("/runs").json()["cursor"]["total_count"] == 0
