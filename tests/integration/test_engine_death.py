"""A dead engine is replaced; what that means for each kind of work, over real processes and real HTTP."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import numpy as np
import pytest

from eztinker.errors import EngineLost
from eztinker.protocol import wire_pb2
from eztinker.protocol.frames import Configure, CreateModel, Sample, SampleDone
from eztinker.service import engine_process
from eztinker.service.engine_process import EngineProcess
from eztinker.types import LoraSpec, SampleRequest, SamplingParams
from tests.scripted_engine import DIE, DIE_ONCE, STALL
from tests.servers import SCRIPTED_ENGINE_ARGV, RunningServer, serving_scripted, wait_until
from tests.wire import (
    PROTOBUF,
    chunk,
    new_run,
    new_sampler,
    optim_step,
    outcome,
    post,
    sample_body,
    save,
    send_chunk,
)


@pytest.fixture(autouse=True)
def scripted_engine_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRIPTED_ENGINE_DIRECTORY", str(tmp_path))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with serving_scripted(tmp_path / "data", poll_hold_seconds=0.5) as running:
        yield running


@pytest.fixture
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def kill_engine(server: RunningServer) -> None:
    ready = server.app.state.service.engine.ready
    os.kill(ready.pid, signal.SIGKILL)
    wait_until(lambda: server.app.state.service.engine.ready is not ready)


def test_a_training_operation_in_a_dying_engine_fails_and_names_the_checkpoint_to_go_on_from(http: httpx.Client):
    model_id = new_run(http)
    path = save(http, "/save_weights", model_id, 1, path="a")["path"]
    failure = outcome(http, send_chunk(http, chunk(model_id, 2, token=DIE)), accept=PROTOBUF).json()
    assert (failure["category"], failure["code"]) == ("server", "engine_lost")
    assert model_id in failure["error"]
    assert f"create_training_client_from_state_with_optimizer('{path}')" in failure["error"]


def test_later_operations_of_a_lost_run_say_the_same_and_new_runs_work(server: RunningServer, http: httpx.Client):
    model_id = new_run(http)
    kill_engine(server)
    failure = outcome(http, optim_step(http, model_id, 1)).json()
    assert "had no saved checkpoint" in failure["error"]
    assert http.get(f"/training_runs/{model_id}").json()["corrupted"]
    fresh = new_run(http)
    assert outcome(http, optim_step(http, fresh, 1)).json()["metrics"] == {"step": 1.0}


def test_samplers_outlive_the_engine(server: RunningServer, http: httpx.Client):
    unnamed = save(http, "/save_weights_for_sampler", new_run(http), 1, sampling_session_seq_id=0)
    kill_engine(server)
    op_id = post(http, "/asample", **sample_body(unnamed["sampling_session_id"]))["request_id"]
    assert outcome(http, op_id).json()["sequences"][0]["tokens"] == [11, 12]


def test_a_sample_is_sent_again_once(http: httpx.Client):
    op_id = post(http, "/asample", **sample_body(new_sampler(http), token=DIE_ONCE))["request_id"]
    response = outcome(http, op_id, accept=PROTOBUF)
    assert len(wire_pb2.SampleResponse.FromString(response.content).sequences) == 1


def test_a_sample_that_kills_two_engines_fails(http: httpx.Client):
    op_id = post(http, "/asample", **sample_body(new_sampler(http), token=DIE))["request_id"]
    failure = outcome(http, op_id).json()
    assert (failure["category"], failure["code"]) == ("server", "engine_lost")


def test_a_restarted_server_serves_old_results_and_settles_what_was_unfinished(tmp_path: Path):
    with serving_scripted(tmp_path / "data", poll_hold_seconds=0.5) as server, server.client() as http:
        model_id = new_run(http)
        done = send_chunk(http, chunk(model_id, 1))
        outcome(http, done, accept=PROTOBUF)
        unfinished = send_chunk(http, chunk(model_id, 2, token=STALL))
        sampler_id = new_sampler(http)
        sample = post(http, "/asample", **sample_body(sampler_id, token=STALL))["request_id"]
    with serving_scripted(tmp_path / "data", poll_hold_seconds=0.5) as server, server.client() as http:
        assert outcome(http, done, accept=PROTOBUF).headers["content-type"] == PROTOBUF
        failure = outcome(http, unfinished).json()
        assert (failure["category"], failure["code"]) == ("server", "engine_lost")
        assert outcome(http, sample).status_code == 410
        assert "stopped" in outcome(http, optim_step(http, model_id, 3)).json()["error"]
        again = post(http, "/asample", **sample_body(sampler_id, seq_id=1))["request_id"]
        assert outcome(http, again).json()["sequences"][0]["tokens"] == [11, 12]
        assert post(http, "/session_heartbeat", session_id=model_id.partition(":")[0])


def test_leftovers_of_saves_that_never_finished_are_collected_at_start(tmp_path: Path):
    (tmp_path / "data" / "checkpoints" / "torn").mkdir(parents=True)
    with serving_scripted(tmp_path / "data"):
        assert not (tmp_path / "data" / "checkpoints" / "torn").exists()


def test_a_silent_session_expires_and_its_unnamed_snapshots_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("eztinker.service.service.HOUSEKEEPING_SECONDS", 0.1)
    monkeypatch.setattr("eztinker.service.checkpoint_collector.REMOVAL_DELAY", timedelta(0))
    with serving_scripted(tmp_path / "data", session_timeout_seconds=0.5) as server, server.client() as http:
        model_id = new_run(http)
        save(http, "/save_weights_for_sampler", model_id, 1, sampling_session_seq_id=0)
        snapshots = tmp_path / "data" / "checkpoints"
        assert len(list(snapshots.iterdir())) == 1
        wait_until(lambda: not list(snapshots.iterdir()))
        assert http.post("/session_heartbeat", json={"session_id": model_id.partition(":")[0]}).status_code == 410


def test_only_the_newest_inflight_save_is_kept_and_all_inflight_samplers_draw_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("eztinker.service.service.HOUSEKEEPING_SECONDS", 0.1)
    monkeypatch.setattr("eztinker.service.checkpoint_collector.REMOVAL_DELAY", timedelta(0))
    snapshots = tmp_path / "data" / "checkpoints"
    with serving_scripted(tmp_path / "data") as server, server.client() as http:
        model_id = new_run(http)
        unnamed = {"sampling_session_seq_id": 0}
        save(http, "/save_weights_for_sampler", model_id, 1, **unnamed)
        samplers = [
            save(http, "/save_weights_for_sampler", model_id, seq_id, kind="inflight", **unnamed)["sampling_session_id"]
            for seq_id in (2, 3, 4)
        ]
        wait_until(lambda: len(list(snapshots.iterdir())) == 2)
        for sampler_id in samplers:
            op_id = post(http, "/asample", **sample_body(sampler_id))["request_id"]
            assert outcome(http, op_id).json()["sequences"][0]["tokens"] == [11, 12]


# --- the engine process alone ---


def sample_command(op_id: str, token: int) -> Sample:
    request = SampleRequest(prompt=np.array([token]), num_samples=1, params=SamplingParams(max_tokens=1))
    return Sample(op_id=op_id, base_model="tiny", directory=None, request=request)


def test_commands_wait_for_an_engine_that_is_not_ready():
    async def scenario() -> None:
        engine = EngineProcess(Configure(base_models={}), argv=SCRIPTED_ENGINE_ARGV)
        early = engine.submit(sample_command("early", 10))
        assert engine.ready is None
        engine.start()
        assert isinstance(await early, SampleDone)
        assert engine.ready is not None
        await engine.stop()

    asyncio.run(scenario())


def test_an_engine_that_never_starts_fails_what_waits(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine_process, "FIRST_PAUSE_SECONDS", 0.01)

    async def scenario() -> None:
        engine = EngineProcess(Configure(base_models={}), argv=(sys.executable, "-c", "raise SystemExit(3)"))
        engine.start()
        create = CreateModel(op_id="c", model_id="m", base_model="tiny", lora=LoraSpec(rank=1, seed=0))
        with pytest.raises(EngineLost, match="does not start"):
            await engine.submit(create)
        await engine.stop()

    asyncio.run(scenario())


def test_stopping_leaves_no_engine_behind():
    async def scenario() -> int:
        engine = EngineProcess(Configure(base_models={}), argv=SCRIPTED_ENGINE_ARGV)
        engine.start()
        await engine.submit(sample_command("one", 10))
        assert engine.ready is not None
        pid = engine.ready.pid
        await engine.stop()
        return pid

    with pytest.raises(ProcessLookupError):
        os.kill(asyncio.run(scenario()), 0)
