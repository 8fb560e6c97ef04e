"""What a client finds when the server was stopped and started again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scripted_engine import STALL
from tests.servers import serving_scripted
from tests.wire import (
    PROTOBUF,
    chunk,
    loss_of,
    new_run,
    new_sampler,
    new_session,
    outcome,
    post,
    sample_body,
    save,
    send_chunk,
)


@pytest.mark.conforms(37, 97)
def test_results_checkpoints_and_the_state_of_sessions_outlive_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SCRIPTED_ENGINE_DIRECTORY", str(tmp_path))
    with serving_scripted(tmp_path / "data", poll_hold_seconds=0.5) as server, server.client() as http:
        run, over = new_run(http), new_session(http)
        result = send_chunk(http, chunk(run, 1))
        assert loss_of(outcome(http, result, accept=PROTOBUF)) == 1.0
        trained = save(http, "/save_weights", run, 2, path="a")["path"]
        sampled = save(http, "/save_weights_for_sampler", run, 3, path="a")["path"]
        pending = post(http, "/asample", **sample_body(new_sampler(http), token=STALL))["request_id"]
        post(http, f"/sessions/{over}/finish", reason={"type": "success"})
    with serving_scripted(tmp_path / "data", poll_hold_seconds=0.5) as server, server.client() as http:
        assert loss_of(outcome(http, result, accept=PROTOBUF)) == 1.0
        listed = http.get(f"/training_runs/{run}/checkpoints").json()["checkpoints"]
        assert {row["tinker_path"] for row in listed} == {trained, sampled}
        load = {"session_id": new_session(http), "model_seq_id": 0, "path": trained, "optimizer": True}
        assert outcome(http, post(http, "/load_weights", **load)["request_id"]).json()["model_id"]
        again = post(http, "/asample", **sample_body(new_sampler(http, model_path=sampled)))["request_id"]
        assert outcome(http, again).json()["sequences"][0]["tokens"] == [11, 12]
        assert outcome(http, pending).status_code == 410
        session_id = run.partition(":")[0]
        beats = [http.post("/session_heartbeat", json={"session_id": each}) for each in (session_id, over)]
        assert [beat.status_code for beat in beats] == [200, 410]
