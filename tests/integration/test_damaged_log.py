"""Bits that flip in the operation log: no damaged number is served, no damaged plan carried out."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from tests.scripted_engine import STALL
from tests.servers import serving_scripted
from tests.wire import PROTOBUF, chunk, loss_of, new_run, optim_step, outcome, post, sample_body, save, send_chunk


@pytest.fixture(autouse=True)
def scripted_engine_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRIPTED_ENGINE_DIRECTORY", str(tmp_path))


def damage(data_dir: Path, column: str, op_id: str) -> None:
    """Flip a bit, that of a digit if there is one, so that the bytes can still be decoded."""
    with contextlib.closing(sqlite3.connect(data_dir / "oplog.sqlite3")) as db:
        (content,) = db.execute(f"SELECT {column} FROM operations WHERE op_id = ?", (op_id,)).fetchone()
        place = max((place for place, byte in enumerate(content) if byte in b"0123456789"), default=len(content) - 1)
        damaged = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        db.execute(f"UPDATE operations SET {column} = ? WHERE op_id = ?", (damaged, op_id))
        db.commit()


def test_a_damaged_plan_of_an_unfinished_operation_is_not_carried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("eztinker.service.service.PARK_SECONDS", 0.1)
    with serving_scripted(tmp_path / "data", poll_hold_seconds=0.5) as server, server.client() as http:
        unfinished = send_chunk(http, chunk(new_run(http), 1, token=STALL))
    damage(tmp_path / "data", "plan", unfinished)
    (tmp_path / "go_on").touch()
    with serving_scripted(tmp_path / "data", poll_hold_seconds=0.5) as server, server.client() as http:
        failure = outcome(http, unfinished).json()
        assert (failure["category"], failure["code"]) == ("server", "engine_lost")
        assert "the log no longer has its operations" in failure["error"]


def test_a_damaged_result_is_not_served_and_the_run_goes_on(tmp_path: Path):
    with serving_scripted(tmp_path / "data", poll_hold_seconds=0.5) as server, server.client() as http:
        model_id = new_run(http)
        future = optim_step(http, model_id, 1)
        assert outcome(http, future).status_code == 200
        sampler = save(http, "/save_weights_for_sampler", model_id, 2, sampling_session_seq_id=1)
        sampled = post(http, "/asample", **sample_body(sampler["sampling_session_id"]))["request_id"]
        assert outcome(http, sampled).status_code == 200
        for op_id in (future, sampled):
            damage(tmp_path / "data", "result", op_id)
        failure = outcome(http, future).json()
        assert (failure["category"], failure["code"]) == ("server", "result_damaged")
        assert "done, but its result was damaged" in failure["error"]
        assert outcome(http, sampled).status_code == 410  # and the client asks for it again
        assert loss_of(outcome(http, send_chunk(http, chunk(model_id, 3)), accept=PROTOBUF)) == 2
