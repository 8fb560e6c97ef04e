"""Records of samples: who may name them, how long they are kept, and what of them outlives the server."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from eztinker.errors import InvalidInput
from eztinker.oplog import recorded_samples, sessions
from eztinker.oplog.rows import SamplingSession, Session, SessionStatus
from eztinker.oplog.store import Store
from eztinker.protocol import wire_pb2
from eztinker.service.clock import Clock
from eztinker.service.sessions.recorded_samples import RecordedById, RecordedSamples, record_of
from eztinker.types import SampledSequence, SampleResult
from tests.route_cases import tenant
from tests.servers import RunningServer, ServeScripted, serving_scripted
from tests.wire import new_run, new_session, outcome, post, sample_body, send_chunk

BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NUM_BYTES = 4 + 2 * (4 + 4)
"""One prompt token, and two sampled ones with their logprobs."""


@pytest.fixture
def server(serve_scripted: ServeScripted) -> RunningServer:
    return serve_scripted(constants={"eztinker.service.service.HOUSEKEEPING_SECONDS": 0.1}, poll_hold_seconds=0.5)


# --- over HTTP: the scripted engine draws the prompt's last token + 1 and + 2, each with a logprob of -1 ---


def sampler_in(http: httpx.Client, session_id: str) -> str:
    body = {"session_id": session_id, "sampling_session_seq_id": 0, "base_model": "tiny"}
    return post(http, "/create_sampling_session", **body)["sampling_session_id"]


def sample(http: httpx.Client, sampler_id: str, seq_id: int = 0, *, is_recorded: bool = True) -> str:
    """The id of a sequence of 11 and 12, drawn for a prompt of 10."""
    future = post(http, "/asample", **sample_body(sampler_id, seq_id, record_stability_info=is_recorded))
    assert outcome(http, future["request_id"]).json()["sequences"][0]["tokens"] == [11, 12]
    return future["sample_sequence_ids"][0]


def training_body(model_id: str, seq_id: int, sequence_id: str) -> bytes:
    message = wire_pb2.ForwardBackwardRequest(model_id=model_id, seq_id=seq_id, loss_fn="stable_reinforce")
    datum = message.data.add()
    datum.model_input.add().encoded_text.tokens = np.array([10, 11], "<i4").tobytes()
    for name, raw, dtype in (
        ("target_tokens", np.array([11, 12], "<i8").tobytes(), wire_pb2.INT64),
        ("advantages", np.ones(2, "<f4").tobytes(), wire_pb2.FLOAT32),
    ):
        datum.loss_fn_inputs[name].CopyFrom(wire_pb2.Tensor(dense=raw, dtype=dtype, shape=[2]))
    datum.model_input_spans.add().prompt_tokens.CopyFrom(wire_pb2.Span(sequence_id=sequence_id, length=1))
    datum.model_input_spans.add().sampled_tokens.CopyFrom(wire_pb2.Span(sequence_id=sequence_id, length=1))
    datum.loss_fn_input_spans.add().sampled_tokens.CopyFrom(wire_pb2.Span(sequence_id=sequence_id, length=2))
    return message.SerializeToString()


def answer(http: httpx.Client, model_id: str, seq_id: int, sequence_id: str) -> dict[str, Any]:
    request_id = send_chunk(http, training_body(model_id, seq_id, sequence_id))
    return outcome(http, request_id).json()


def is_refused(told: dict[str, Any], sequence_id: str) -> bool:
    sentence = f"data[0]: model_input_spans[0]: this session has no record of the sequence '{sequence_id}'"
    return told.get("category") == "user" and told["error"].startswith(sentence)


@pytest.mark.conforms(98)
def test_a_recorded_sequence_trains_in_its_own_session_and_nowhere_else(server: RunningServer, http: httpx.Client):
    model_id = new_run(http)
    session_id = model_id.partition(":")[0]
    sampler_id = sampler_in(http, session_id)
    recorded = sample(http, sampler_id)
    assert "loss_fn_outputs" in answer(http, model_id, 1, recorded)
    unrecorded = sample(http, sampler_id, 1, is_recorded=False)
    elsewhere = sample(http, sampler_in(http, new_session(http)))
    for seq_id, sequence_id in enumerate((unrecorded, elsewhere, "op-1-0", "x", recorded[:-1] + "00"), 2):
        assert is_refused(answer(http, model_id, seq_id, sequence_id), sequence_id)
    assert "loss_fn_outputs" in answer(http, model_id, 7, recorded)  # the run goes on
    with tenant(server, "eve") as eve:
        assert is_refused(answer(eve, new_run(eve), 1, recorded), recorded)


def test_a_record_goes_with_its_session(server: RunningServer, http: httpx.Client):
    model_id = new_run(http)
    session_id = model_id.partition(":")[0]
    sample(http, sampler_in(http, session_id))
    assert count_rows(server.data_dir) == {"recorded_samples": 1, "recorded_sequences": 1}
    post(http, f"/sessions/{session_id}/finish", reason={"type": "success"})
    nothing = {"recorded_samples": 0, "recorded_sequences": 0}
    for _ in range(200):
        if count_rows(server.data_dir) == nothing:
            break
        http.get("/healthz")
    assert count_rows(server.data_dir) == nothing


@pytest.mark.conforms(98)
def test_records_outlive_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SCRIPTED_ENGINE_DIRECTORY", str(tmp_path))
    with serving_scripted(tmp_path / "data", poll_hold_seconds=0.5) as server, server.client() as http:
        model_id = new_run(http)
        sequence_id = sample(http, sampler_in(http, model_id.partition(":")[0]))
    with serving_scripted(tmp_path / "data", poll_hold_seconds=0.5) as server, server.client() as http:
        assert "loss_fn_outputs" in answer(http, model_id, 1, sequence_id)


def test_a_record_that_was_damaged_on_disk_counts_as_gone(server: RunningServer, http: httpx.Client):
    model_id = new_run(http)
    sequence_id = sample(http, sampler_in(http, model_id.partition(":")[0]))
    with closing(sqlite3.connect(server.data_dir / "oplog.sqlite3")) as db, db:
        db.execute("UPDATE recorded_sequences SET logprobs = zeroblob(8)")
    assert is_refused(answer(http, model_id, 1, sequence_id), sequence_id)


def count_rows(data_dir: Path) -> dict[str, int]:
    with closing(sqlite3.connect(data_dir / "oplog.sqlite3")) as db:
        tables = ("recorded_samples", "recorded_sequences")
        return {table: db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}


# --- over time ---


class SetClock(Clock):
    def __init__(self) -> None:
        self.time = BEGAN

    def now(self) -> datetime:
        return self.time


class Shelf:
    """A log with two owners, each with a session, and the records in it."""

    def __init__(self, path: Path, *, max_bytes: int = 2**20) -> None:
        self.store = Store(path)
        self.clock = SetClock()
        self.records = RecordedSamples(self.store, self.clock, max_bytes=max_bytes)
        for owner in ("ann", "bob"):
            self._write(lambda db, owner=owner: sessions.add_session(db, session_of(owner)))

    def _write(self, change: Any) -> None:
        asyncio.run(self.store.write(change))

    def record(self, op_id: str, owner: str = "ann") -> None:
        drawn = SampledSequence(
            tokens=np.array([11, 12], np.int32), logprobs=-np.ones(2, np.float32), stop_reason="length"
        )
        rows = record_of(sampler_of(owner), op_id, np.array([10]), SampleResult(sequences=[drawn]), self.clock.time)
        self._write(lambda db: recorded_samples.add(db, *rows))

    def use(self, *op_ids: str) -> None:
        self._write(lambda db: recorded_samples.renew(db, op_ids, self.clock.time))

    def left(self, *op_ids: str, owner: str = "ann") -> list[str]:
        """Those that are there after a round of housekeeping."""
        asyncio.run(self.records.expire())
        named = [f"{op_id}-0" for op_id in op_ids]
        found = asyncio.run(self.records.named(owner, f"session of {owner}", named))
        return [op_id for op_id in op_ids if f"{op_id}-0" in found]


def session_of(owner: str) -> Session:
    return Session(
        session_id=f"session of {owner}",
        owner=owner,
        idempotency_key=None,
        status=SessionStatus.ACTIVE,
        tags=[],
        user_metadata={},
        sdk_version="",
        created_at=BEGAN,
    )


def sampler_of(owner: str) -> SamplingSession:
    return SamplingSession(
        sampling_session_id="sampler",
        owner=owner,
        session_id=f"session of {owner}",
        seq_id=0,
        base_model="tiny",
        checkpoint_id=None,
        created_at=BEGAN,
    )


def test_a_record_is_kept_for_a_day_after_its_last_use(tmp_path: Path):
    shelf = Shelf(tmp_path / "log")
    for op_id in ("op-used", "op-unused"):
        shelf.record(op_id)
    shelf.clock.time = BEGAN + timedelta(hours=20)
    shelf.use("op-used")
    shelf.clock.time = BEGAN + timedelta(hours=24)
    assert shelf.left("op-used", "op-unused") == ["op-used", "op-unused"]
    shelf.clock.time = BEGAN + timedelta(hours=24, seconds=1)
    assert shelf.left("op-used", "op-unused") == ["op-used"]
    shelf.clock.time = BEGAN + timedelta(hours=44, seconds=1)
    assert shelf.left("op-used") == []
    shelf.store.close()


def test_an_owners_records_take_no_more_than_the_limit_and_those_unused_for_longest_go(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    shelf = Shelf(tmp_path / "log", max_bytes=3 * NUM_BYTES)
    shelf.record("op-bob", "bob")
    for number in range(4):
        shelf.clock.time = BEGAN + timedelta(seconds=number)
        shelf.record(f"op-{number}")
    shelf.clock.time = BEGAN + timedelta(seconds=10)
    shelf.use("op-0")
    assert shelf.left("op-0", "op-1", "op-2", "op-3") == ["op-0", "op-2", "op-3"]
    assert shelf.left("op-bob", owner="bob") == ["op-bob"]
    assert "recorded samples of ann took more than 60 bytes" in caplog.text
    assert "max_recorded_bytes" in caplog.text
    shelf.store.close()


@pytest.mark.parametrize(("most", "is_enough"), [(2 * NUM_BYTES, True), (2 * NUM_BYTES - 1, False), (7, False)])
def test_a_request_names_no_more_than_fits_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, is_enough: bool
):
    """Two records; in the last case their prompts alone are too much, and are not even read."""
    monkeypatch.setattr("eztinker.service.sessions.recorded_samples.MAX_NAMED_BYTES", most)
    shelf = Shelf(tmp_path / "log")
    for op_id in ("op-0", "op-1"):
        shelf.record(op_id)
    if most < 8:
        monkeypatch.delattr(recorded_samples, "samples")
    named = shelf.records.named("ann", "session of ann", ["op-0-0", "op-1-0"])
    if is_enough:
        assert sorted(asyncio.run(named)) == ["op-0-0", "op-1-0"]
    else:
        with pytest.raises(InvalidInput, match=f"more than {most} bytes of tokens and logprobs; send fewer data"):
            asyncio.run(named)
    shelf.store.close()


def test_records_are_read_only_for_a_batch_that_is_right_in_all_else(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
):
    named: list[set[str]] = []
    read = RecordedSamples.named

    async def noting(records: RecordedSamples, owner: str, session_id: str, sequence_ids: set[str]) -> RecordedById:
        named.append(sequence_ids)
        return await read(records, owner, session_id, sequence_ids)

    monkeypatch.setattr(RecordedSamples, "named", noting)
    model_id = new_run(http)
    sequence_id = sample(http, sampler_in(http, model_id.partition(":")[0]))
    message = wire_pb2.ForwardBackwardRequest.FromString(training_body(model_id, 1, sequence_id))
    message.data[0].loss_fn_inputs["target_tokens"].dense = np.array([11, 10**6], "<i8").tobytes()
    told = outcome(http, send_chunk(http, message.SerializeToString())).json()
    assert (told["category"], named) == ("user", [])
    assert "loss_fn_outputs" in answer(http, model_id, 2, sequence_id)
    assert named == [{sequence_id}]
