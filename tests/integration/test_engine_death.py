"""A dead engine is replaced; what that means for each kind of work, over real processes and real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import sqlite3
import sys
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest

from eztinker.errors import EngineLost, LogUnwritable
from eztinker.protocol import wire_pb2
from eztinker.protocol.frames import Configure, Sample, SampleDone
from eztinker.service.clock import Clock
from eztinker.service.execution import engine_process
from eztinker.service.execution.engine_link import EngineLink
from eztinker.service.execution.engine_process import EngineProcess
from eztinker.service.execution.operation import LiveOperations, Operation
from eztinker.types import OperationKind, SampleRequest, SamplingParams
from tests.scripted_engine import DIE, DIE_ONCE, STALL
from tests.servers import SCRIPTED_ENGINE_ARGV, RunningServer, serving_scripted, wait_until
from tests.wire import (
    PROTOBUF,
    chunk,
    loss_of,
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


def kill_engine(server: RunningServer) -> None:
    ready = server.app.state.service.engine.ready
    os.kill(ready.pid, signal.SIGKILL)
    wait_until(lambda: server.app.state.service.engine.ready is not ready)


def count_rows(data_dir: Path, table: str) -> int:
    with contextlib.closing(sqlite3.connect(data_dir / "oplog.sqlite3")) as db:
        return db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def wait_for_snapshots(data_dir: Path, seq_id: int) -> list[Path]:
    """Their manifests, newest first, once there is one of the state after this operation."""

    def find() -> list[tuple[str, int]]:
        with contextlib.closing(sqlite3.connect(data_dir / "oplog.sqlite3")) as db:
            return list(db.execute("SELECT snapshot_id, seq_id FROM snapshots ORDER BY seq_id DESC"))

    wait_until(lambda: find()[0][1] == seq_id)
    return [data_dir / "snapshots" / snapshot_id / "manifest.json" for snapshot_id, _ in find()]


def wait_for_snapshots_of(data_dir: Path, model_id: str) -> Path:
    """The manifest of the run's first snapshot, once it is there."""

    def find() -> list[str]:
        with contextlib.closing(sqlite3.connect(data_dir / "oplog.sqlite3")) as db:
            query = "SELECT snapshot_id FROM snapshots WHERE model_id = ?"
            return [snapshot_id for (snapshot_id,) in db.execute(query, (model_id,))]

    wait_until(lambda: bool(find()))
    return data_dir / "snapshots" / find()[0] / "manifest.json"


def steps(http: httpx.Client, model_id: str, seq_ids: range) -> list[float]:
    """Optimizer steps one after another, as the engine counts them."""
    return [outcome(http, optim_step(http, model_id, seq_id)).json()["metrics"]["step"] for seq_id in seq_ids]


@pytest.mark.parametrize("snapshot_operations", [1, 2, 100])
def test_a_run_goes_on_in_the_next_engine_as_if_nothing_had_happened(tmp_path: Path, snapshot_operations: int):
    settings = {"poll_hold_seconds": 0.5, "snapshot_operations": snapshot_operations}
    with serving_scripted(tmp_path / "data", **settings) as server, server.client() as http:
        model_id = new_run(http)
        for first in (1, 4, 7):
            assert steps(http, model_id, range(first, first + 3)) == [first, first + 1, first + 2]
            kill_engine(server)
        assert steps(http, model_id, range(10, 11)) == [10]


def test_an_operation_in_a_dying_engine_is_run_again_and_counts_once(http: httpx.Client):
    model_id = new_run(http)
    steps(http, model_id, range(1, 3))
    futures = [send_chunk(http, chunk(model_id, 3, token=DIE_ONCE)), send_chunk(http, chunk(model_id, 4))]
    assert [loss_of(outcome(http, op_id, accept=PROTOBUF)) for op_id in futures] == [3, 4]


def test_a_refused_step_is_refused_again_when_the_run_is_brought_back(server: RunningServer, http: httpx.Client):
    model_id = new_run(http)
    assert outcome(http, optim_step(http, model_id, 1, learning_rate=0)).json()["code"] == "nonfinite_update"
    kill_engine(server)
    assert steps(http, model_id, range(2, 3)) == [2]


def test_an_operation_that_kills_three_engines_fails_and_its_run_goes_on_from_before_it(http: httpx.Client):
    model_id, neighbour = new_run(http), new_run(http)
    steps(http, model_id, range(1, 3))
    poison = send_chunk(http, chunk(model_id, 3, token=DIE))
    following = optim_step(http, model_id, 4)
    assert steps(http, neighbour, range(1, 3)) == [1, 2]
    failure = outcome(http, poison, accept=PROTOBUF).json()
    assert (failure["category"], failure["code"]) == ("server", "engine_lost")
    assert "as it was before it" in failure["error"]
    assert outcome(http, following).json()["metrics"] == {"step": 3}


def test_a_damaged_snapshot_is_passed_over_for_the_one_before(tmp_path: Path):
    settings = {"poll_hold_seconds": 0.5, "snapshot_operations": 2}
    with serving_scripted(tmp_path / "data", **settings) as server, server.client() as http:
        model_id = new_run(http)
        steps(http, model_id, range(1, 8))
        wait_for_snapshots(tmp_path / "data", seq_id=7)[0].unlink()
        kill_engine(server)
        assert steps(http, model_id, range(8, 9)) == [8]


def test_a_run_without_any_good_snapshot_is_lost_and_names_the_checkpoint_to_go_on_from(tmp_path: Path):
    settings = {"poll_hold_seconds": 0.5, "snapshot_operations": 2}
    with serving_scripted(tmp_path / "data", **settings) as server, server.client() as http:
        model_id = new_run(http)
        steps(http, model_id, range(1, 6))
        path = save(http, "/save_weights", model_id, 6, path="a")["path"]
        for manifest in wait_for_snapshots(tmp_path / "data", seq_id=6):
            manifest.unlink()
        kill_engine(server)
        for seq_id in (7, 8):
            failure = outcome(http, optim_step(http, model_id, seq_id)).json()
            assert (failure["category"], failure["code"]) == ("server", "engine_lost")
            assert f"create_training_client_from_state_with_optimizer('{path}')" in failure["error"]
        assert http.get(f"/training_runs/{model_id}").json()["corrupted"]
        assert steps(http, new_run(http), range(1, 2)) == [1]


def damage_payloads(data_dir: Path) -> None:
    """Flip the last bit of whatever operations do."""
    with contextlib.closing(sqlite3.connect(data_dir / "oplog.sqlite3")) as db:
        for digest, content in db.execute("SELECT digest, content FROM payloads").fetchall():
            damaged = content[:-1] + bytes([content[-1] ^ 1])
            db.execute("UPDATE payloads SET content = ? WHERE digest = ?", (damaged, digest))
        db.commit()


def test_a_run_whose_operations_are_damaged_in_the_log_ends_with_a_way_to_go_on(tmp_path: Path):
    with serving_scripted(tmp_path / "data", poll_hold_seconds=0.5) as server, server.client() as http:
        model_id, neighbour = new_run(http), new_run(http)
        path = save(http, "/save_weights", model_id, 1, path="a")["path"]
        steps(http, model_id, range(2, 4))
        wait_for_snapshots(tmp_path / "data", seq_id=1)[0].unlink()
        damage_payloads(tmp_path / "data")
        steps(http, neighbour, range(1, 2))
        kill_engine(server)
        failure = outcome(http, optim_step(http, model_id, 4)).json()
        assert (failure["category"], failure["code"]) == ("server", "engine_lost")
        assert "damaged in the server's log" in failure["error"]
        assert f"create_training_client_from_state_with_optimizer('{path}')" in failure["error"]


def test_a_damaged_operation_that_a_server_left_unfinished_fails_and_is_not_guessed_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("eztinker.service.service.PARK_SECONDS", 0.1)
    with serving_scripted(tmp_path / "data", poll_hold_seconds=0.5) as server, server.client() as http:
        unfinished = send_chunk(http, chunk(new_run(http), 1, token=STALL))
    damage_payloads(tmp_path / "data")
    (tmp_path / "go_on").touch()
    with serving_scripted(tmp_path / "data", poll_hold_seconds=0.5) as server, server.client() as http:
        failure = outcome(http, unfinished).json()
        assert (failure["category"], failure["code"]) == ("server", "engine_lost")
        assert "the log no longer has its operations" in failure["error"]


def test_a_deleted_checkpoint_stays_on_disk_while_a_run_would_be_brought_back_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its files used to go after a minute, and a run that had loaded it and lost its snapshots with them."""
    monkeypatch.setattr("eztinker.service.service.HOUSEKEEPING_SECONDS", 0.1)
    monkeypatch.setattr("eztinker.service.checkpoints.collector.REMOVAL_DELAY", timedelta(0))
    with serving_scripted(tmp_path / "data", poll_hold_seconds=0.5) as server, server.client() as http:
        source, model_id = new_run(http), new_run(http)
        steps(http, source, range(1, 4))
        path = save(http, "/save_weights", source, 4, path="a")["path"]
        save(http, "/load_weights", model_id, 1, path=path, optimizer=True)
        newest = wait_for_snapshots_of(tmp_path / "data", model_id)
        assert http.delete(f"/training_runs/{source}/checkpoints/weights/a").status_code == 200
        unused = save(http, "/save_weights_for_sampler", source, 5, path="b")["path"].rpartition("/")[2]
        assert http.delete(f"/training_runs/{source}/checkpoints/sampler_weights/{unused}").status_code == 200
        wait_until(lambda: len(list((tmp_path / "data" / "checkpoints").iterdir())) == 1)
        newest.unlink()
        kill_engine(server)
        assert steps(http, model_id, range(2, 3)) == [4]
        post(http, "/unload_model", model_id=model_id)
        wait_until(lambda: not list((tmp_path / "data" / "checkpoints").iterdir()))


def test_a_run_that_cannot_be_brought_back_for_now_is_kept_until_it_can(tmp_path: Path):
    settings = {"poll_hold_seconds": 0.5, "snapshot_operations": 2}
    with serving_scripted(tmp_path / "data", **settings) as server, server.client() as http:
        model_id = new_run(http)
        steps(http, model_id, range(1, 4))
        (tmp_path / "no_memory").touch()
        kill_engine(server)
        failure = outcome(http, optim_step(http, model_id, 4)).json()
        assert (failure["category"], failure["code"]) == ("server", "engine_lost")
        assert "at present: no memory" in failure["error"]
        (tmp_path / "no_memory").unlink()
        assert steps(http, model_id, range(5, 6)) == [4]


def test_payloads_and_snapshots_do_not_pile_up(tmp_path: Path):
    settings = {"poll_hold_seconds": 0.5, "snapshot_operations": 4}
    with serving_scripted(tmp_path / "data", **settings) as server, server.client() as http:
        model_id = new_run(http)
        for seq_id in range(1, 40):
            outcome(http, send_chunk(http, chunk(model_id, seq_id, token=10 + seq_id)), accept=PROTOBUF)
        wait_until(lambda: count_rows(tmp_path / "data", "payloads") <= 3 * 4)
        post(http, "/unload_model", model_id=model_id)
        wait_until(lambda: count_rows(tmp_path / "data", "payloads") == 0)
        assert count_rows(tmp_path / "data", "snapshots") == 0


def test_an_engine_that_makes_no_progress_is_replaced(tmp_path: Path):
    settings = {"poll_hold_seconds": 0.5, "engine_stall_seconds": 2}
    with serving_scripted(tmp_path / "data", **settings) as server, server.client() as http:
        model_id = new_run(http)
        steps(http, model_id, range(1, 2))
        ready = server.app.state.service.engine.ready
        stuck = send_chunk(http, chunk(model_id, 2, token=STALL))
        wait_until(lambda: server.app.state.service.engine.ready is not ready)
        (tmp_path / "go_on").touch()
        assert loss_of(outcome(http, stuck, accept=PROTOBUF)) == 2


def test_samplers_outlive_the_engine(server: RunningServer, http: httpx.Client):
    unnamed = save(http, "/save_weights_for_sampler", new_run(http), 1, sampling_session_seq_id=0)
    kill_engine(server)
    op_id = post(http, "/asample", **sample_body(unnamed["sampling_session_id"]))["request_id"]
    assert outcome(http, op_id).json()["sequences"][0]["tokens"] == [11, 12]


def test_a_sample_in_a_dying_engine_is_drawn_by_the_next_one(http: httpx.Client):
    op_id = post(http, "/asample", **sample_body(new_sampler(http), token=DIE_ONCE))["request_id"]
    response = outcome(http, op_id, accept=PROTOBUF)
    assert len(wire_pb2.SampleResponse.FromString(response.content).sequences) == 1


@pytest.mark.conforms(35)
def test_a_sample_that_kills_three_engines_fails(http: httpx.Client):
    op_id = post(http, "/asample", **sample_body(new_sampler(http), token=DIE))["request_id"]
    failure = outcome(http, op_id).json()
    assert (failure["category"], failure["code"]) == ("server", "engine_lost")


@pytest.mark.conforms(97)
def test_a_restarted_server_serves_old_results_and_finishes_what_was_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("eztinker.service.service.PARK_SECONDS", 0.1)
    with serving_scripted(tmp_path / "data", poll_hold_seconds=0.5) as server, server.client() as http:
        model_id = new_run(http)
        done = send_chunk(http, chunk(model_id, 1))
        outcome(http, done, accept=PROTOBUF)
        unfinished = send_chunk(http, chunk(model_id, 2, token=STALL))
        behind = post(http, "/save_weights", model_id=model_id, seq_id=3, path="a")["request_id"]
        early = send_chunk(http, chunk(model_id, 5))
        sampler_id = new_sampler(http)
        sample = post(http, "/asample", **sample_body(sampler_id, token=STALL))["request_id"]
    (tmp_path / "go_on").touch()
    with serving_scripted(tmp_path / "data", poll_hold_seconds=0.5) as server, server.client() as http:
        assert loss_of(outcome(http, done, accept=PROTOBUF)) == 1
        assert loss_of(outcome(http, unfinished, accept=PROTOBUF)) == 2
        assert outcome(http, behind).json()["path"] == f"tinker://{model_id}/weights/a"
        assert loss_of(outcome(http, send_chunk(http, chunk(model_id, 4)), accept=PROTOBUF)) == 3
        assert loss_of(outcome(http, early, accept=PROTOBUF)) == 4
        assert send_chunk(http, chunk(model_id, 2)) == unfinished
        assert outcome(http, sample).status_code == 410
        again = post(http, "/asample", **sample_body(sampler_id, seq_id=1))["request_id"]
        assert outcome(http, again).json()["sequences"][0]["tokens"] == [11, 12]
        assert post(http, "/session_heartbeat", session_id=model_id.partition(":")[0])


def test_leftovers_of_saves_that_never_finished_are_collected_at_start(tmp_path: Path):
    (tmp_path / "data" / "checkpoints" / "torn").mkdir(parents=True)
    with serving_scripted(tmp_path / "data"):
        assert not (tmp_path / "data" / "checkpoints" / "torn").exists()


def test_a_silent_session_expires_and_its_unnamed_snapshots_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("eztinker.service.service.HOUSEKEEPING_SECONDS", 0.1)
    monkeypatch.setattr("eztinker.service.checkpoints.collector.REMOVAL_DELAY", timedelta(0))
    with serving_scripted(tmp_path / "data", session_timeout_seconds=0.5) as server, server.client() as http:
        model_id = new_run(http)
        save(http, "/save_weights_for_sampler", model_id, 1, sampling_session_seq_id=0)
        snapshots = tmp_path / "data" / "checkpoints"
        assert len(list(snapshots.iterdir())) == 1
        wait_until(lambda: not list(snapshots.iterdir()))
        assert http.post("/session_heartbeat", json={"session_id": model_id.partition(":")[0]}).status_code == 410


@pytest.mark.conforms(69)
def test_only_the_newest_inflight_save_is_kept_and_all_inflight_samplers_draw_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("eztinker.service.service.HOUSEKEEPING_SECONDS", 0.1)
    monkeypatch.setattr("eztinker.service.checkpoints.collector.REMOVAL_DELAY", timedelta(0))
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


def sample_operation(op_id: str, token: int) -> Operation:
    request = SampleRequest(prompt=np.array([token]), num_samples=1, params=SamplingParams(max_tokens=1))
    work = Sample(op_id=op_id, base_model="tiny", directory=None, request=request)
    return Operation(op_id=op_id, owner="local", lane="lane", seq_id=None, kind=OperationKind.SAMPLE, work=work)


def new_engine(argv: Sequence[str], *, refusals: int = 0) -> EngineProcess:
    """Args: refusals: how often the log refuses the number of an engine."""
    epochs = itertools.count(1 - refusals)

    async def begin_epoch() -> int:
        if (epoch := next(epochs)) < 1:
            raise LogUnwritable("disk full")
        return epoch

    return EngineProcess(
        Configure(base_models={}),
        begin_epoch,
        Clock(),
        LiveOperations(),
        stall_seconds=60,
        spawn=partial(EngineLink.spawn, argv),
    )


def test_engines_go_on_starting_after_the_log_refused_the_number_of_one():
    """An engine that died while the disk was full was never replaced: the supervisor ended with the refusal."""

    async def scenario() -> None:
        engine = new_engine(SCRIPTED_ENGINE_ARGV, refusals=1)
        engine.start()
        assert await engine.available() == 1
        await engine.stop()

    asyncio.run(asyncio.wait_for(scenario(), timeout=20))


def test_commands_wait_for_an_engine_that_is_not_ready():
    async def scenario() -> None:
        engine = new_engine(SCRIPTED_ENGINE_ARGV)
        early = sample_operation("early", 10)
        answer = engine.sample(early)
        assert engine.ready is None
        engine.start()
        assert isinstance(await answer, SampleDone)
        assert early.epoch == engine.epoch == 1
        assert engine.ready is not None
        await engine.stop()

    asyncio.run(scenario())


def test_an_engine_that_never_starts_fails_what_waits(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine_process, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(engine_process, "MAX_FAILED_STARTS", 3)

    async def scenario() -> None:
        engine = new_engine((sys.executable, "-c", "raise SystemExit(3)"))
        engine.start()
        waiting = asyncio.create_task(engine.available())
        with pytest.raises(EngineLost, match="does not start"):
            await engine.sample(sample_operation("never", 10))
        with pytest.raises(EngineLost, match="does not start"):
            await waiting
        await engine.stop()

    asyncio.run(scenario())


def test_stopping_leaves_no_engine_behind():
    async def scenario() -> int:
        engine = new_engine(SCRIPTED_ENGINE_ARGV)
        engine.start()
        await engine.sample(sample_operation("one", 10))
        assert engine.ready is not None
        pid = engine.ready.pid
        await engine.stop()
        return pid

    with pytest.raises(ProcessLookupError):
        os.kill(asyncio.run(scenario()), 0)
