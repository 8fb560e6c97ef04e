"""Runs under their ids and names: every form means the same run, and what a run has come to is kept in the log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from eztinker.oplog.models import run_id_of
from tests.route_cases import tenant
from tests.servers import RunningServer, serving_scripted
from tests.wire import new_run, new_session, optim_step, outcome, post, save


@pytest.fixture
def http(server: RunningServer, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """An owner of its own for every test."""
    with tenant(server, f"owner-{abs(hash(request.node.name))}") as client:
        yield client


def carry_on(http: httpx.Client, path: str, run: str) -> str:
    """A new model that carries `run` on from the checkpoint at `path`."""
    fields = {"session_id": new_session(http), "model_seq_id": 0, "path": path, "optimizer": True}
    future = post(http, "/load_weights", **fields, user_metadata={"eztinker_run": run})
    loaded = outcome(http, future["request_id"])
    assert loaded.status_code == 200, loaded.text
    return loaded.json()["model_id"]


def train(http: httpx.Client, model_id: str, seq_id: int, weights: list[float]) -> None:
    """One pass over as many tokens as there are weights, and a step."""
    count = len(weights)
    inputs = {
        "target_tokens": {"data": [10] * count, "dtype": "int64", "shape": [count]},
        "weights": {"data": weights, "dtype": "float32", "shape": [count]},
    }
    datum = {"model_input": {"chunks": [{"tokens": [10] * count}]}, "loss_fn_inputs": inputs}
    batch = {"data": [datum], "loss_fn": "cross_entropy"}
    sent = post(http, "/forward_backward", model_id=model_id, seq_id=seq_id, forward_backward_input=batch)
    done = outcome(http, sent["request_id"])
    assert "error" not in done.text, done.text
    assert outcome(http, optim_step(http, model_id, seq_id + 1, learning_rate=1e-3)).status_code == 200


def run_of(http: httpx.Client, reference: str) -> dict[str, Any]:
    response = http.get(f"/runs/{reference}")
    assert response.status_code == 200, response.text
    return response.json()


def test_every_form_names_the_same_run(http: httpx.Client):
    first = new_run(http, user_metadata={"eztinker_name": "mine", "eztinker_note": "a try"})
    path = save(http, "/save_weights", first, 1, path="begin")["path"]
    second = carry_on(http, path, "mine")
    run_id = run_id_of(first)
    runs = [run_of(http, reference) for reference in (run_id, "mine", first, f"run_{first}", second)]
    assert runs == [runs[0]] * 5
    assert (runs[0]["run_id"], runs[0]["name"], runs[0]["note"]) == (run_id, "mine", "a try")
    assert set(runs[0]["model_ids"]) == {first, second}
    assert [run["run_id"] for run in http.get("/runs").json()["runs"]] == [run_id]
    for reference in (run_id, "mine"):
        assert post(http, "/get_info", model_id=reference)["model_name"] == "tiny"
        listed = http.get(f"/training_runs/{reference}/checkpoints").json()["checkpoints"]
        assert [each["tinker_path"] for each in listed] == [path]


def test_a_path_by_run_leads_to_the_newest_of_its_name_and_a_path_by_model_to_its_own(http: httpx.Client):
    first = new_run(http, user_metadata={"eztinker_name": "paths"})
    old = save(http, "/save_weights_for_sampler", first, 1, path="final")["path"]
    begin = save(http, "/save_weights", first, 2, path="begin")["path"]
    second = carry_on(http, begin, run_id_of(first))
    new = save(http, "/save_weights_for_sampler", second, 1, path="final")["path"]
    assert old != new
    for run, expected in (("paths", new), (run_id_of(first), new), (first, old), (second, new)):
        sampler = {"session_id": new_session(http), "sampling_session_seq_id": 0}
        made = post(http, "/create_sampling_session", **sampler, model_path=f"tinker://{run}/sampler_weights/final")
        assert http.get(f"/samplers/{made['sampling_session_id']}").json()["model_path"] == expected
    assert post(http, "/weights_info", tinker_path=f"tinker://{second}/weights/begin")["base_model"] == "tiny"
    assert http.delete("/training_runs/paths/checkpoints/sampler_weights/final").status_code == 200
    left = http.get("/training_runs/paths/checkpoints").json()["checkpoints"]
    assert [each["tinker_path"] for each in left] == [begin, old]


def test_a_save_that_replaces_takes_the_name_from_every_model_of_the_run(http: httpx.Client):
    first, other = new_run(http), new_run(http)
    path = save(http, "/save_weights", first, 1, path="latest")["path"]
    kept = save(http, "/save_weights", other, 1, path="latest")["path"]
    second = carry_on(http, path, first)
    replaced = save(http, "/save_weights", second, 1, path="latest", overwrite=True)["path"]
    listed = http.get("/checkpoints").json()["checkpoints"]
    assert [each["tinker_path"] for each in listed] == [replaced, kept]
    assert run_of(http, first)["last_checkpoint"]["tinker_path"] == replaced


def test_steps_and_loss_are_those_of_the_log_and_outlive_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SCRIPTED_ENGINE_DIRECTORY", str(tmp_path))
    with serving_scripted(tmp_path / "data") as server, server.client() as http:
        first = new_run(http)
        train(http, first, 1, [1.0, 0.0, 1.0, 1.0])  # the scripted engine's loss is the number of operations so far
        refused = outcome(http, optim_step(http, first, 3, learning_rate=0.0))
        assert refused.json()["category"] == "user"
        run = run_of(http, first)
        assert (run["num_steps"], run["last_loss"]) == (1, pytest.approx(1 / 3))
        path = save(http, "/save_weights", first, 4, path="saved")["path"]
        second = carry_on(http, path, first)
        assert run_of(http, first)["num_steps"] == 1, "a model that was only loaded says nothing about the run"
        train(http, second, 1, [1.0])
    with serving_scripted(tmp_path / "data") as server, server.client() as http:
        after = run_of(http, first)
        assert after["num_steps"] == 3 + 1, "the scripted engine wrote step 3 into the checkpoint"
        assert after["last_loss"] > 1


def test_a_name_is_its_owners_and_stands_for_one_run(server: RunningServer, http: httpx.Client):
    first = new_run(http, user_metadata={"eztinker_name": "taken"})
    taken = post(
        http,
        "/create_model",
        session_id=new_session(http),
        model_seq_id=0,
        base_model="tiny",
        user_metadata={"eztinker_name": "free"},
    )
    second = outcome(http, taken["request_id"]).json()["model_id"]
    refused = http.patch(f"/runs/{second}", json={"name": "taken"})
    assert (refused.status_code, run_id_of(first) in refused.text) == (400, True)
    assert http.patch(f"/runs/{first}", json={"name": "other"}).json()["name"] == "other"
    assert http.patch(f"/runs/{second}", json={"name": "taken", "note": "n"}).json()["note"] == "n"
    assert http.patch(f"/runs/{second}", json={"note": None}).json()["name"] == "taken"
    with tenant(server, "somebody-else") as stranger:
        assert stranger.get("/runs/taken").status_code == 404
        assert stranger.get(f"/runs/{run_id_of(first)}").status_code == 404
        assert new_run(stranger, user_metadata={"eztinker_name": "taken"})


@pytest.mark.parametrize("name", ["run_1", "a/b", "a b", "", "-x", "x" * 65, "é", 7])
def test_a_name_that_cannot_be_kept_is_refused_where_it_is_given(http: httpx.Client, name: Any):
    body = {"session_id": new_session(http), "model_seq_id": 0, "base_model": "tiny"}
    refused = outcome(http, post(http, "/create_model", **body, user_metadata={"eztinker_name": name})["request_id"])
    assert refused.json()["category"] == "user", refused.text
    assert http.patch(f"/runs/{new_run(http)}", json={"name": name}).status_code in (400, 422)


def test_a_run_that_is_not_there_cannot_be_carried_on(http: httpx.Client):
    body = {"session_id": new_session(http), "model_seq_id": 0, "base_model": "tiny"}
    future = post(http, "/create_model", **body, user_metadata={"eztinker_run": "run_000000000000"})
    assert "No such training run 'run_000000000000'" in outcome(http, future["request_id"]).text


def test_a_name_that_is_taken_is_refused_to_the_second_run(http: httpx.Client):
    new_run(http, user_metadata={"eztinker_name": "one"})
    body = {"session_id": new_session(http), "model_seq_id": 0, "base_model": "tiny"}
    refused = http.post("/create_model", json={**body, "user_metadata": {"eztinker_name": "one"}})
    text = refused.text if refused.status_code != 200 else outcome(http, refused.json()["request_id"]).text
    assert "is named 'one' already" in text
