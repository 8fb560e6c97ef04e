"""The operation log on a real database file."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from eztinker.errors import AlreadyExists, LogFull, LogReplaced, StaleEpoch
from eztinker.oplog import checkpoints, epochs, models, operations, payloads, sessions, snapshots
from eztinker.oplog.rows import (
    Checkpoint,
    Failure,
    Model,
    ModelStatus,
    OperationRow,
    OperationStatus,
    SamplingSession,
    Session,
    Snapshot,
)
from eztinker.oplog.store import Store
from eztinker.types import CheckpointKind, OperationKind, Page

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def operation(op_id: str, *, lane: str = "run", seq_id: int | None = None) -> OperationRow:
    return OperationRow(
        op_id=op_id, owner="local", lane=lane, seq_id=seq_id, kind=OperationKind.OPTIM_STEP, created_at=NOW
    )


def finish(db: Connection, op_id: str, result: bytes = b"{}", *, keeps_payload: bool = False) -> None:
    """By a new engine."""
    operations.finish(
        db,
        op_id,
        epoch=epochs.begin(db, NOW),
        media_type="application/json",
        result=result,
        keeps_payload=keeps_payload,
        now=NOW,
    )


def session(session_id: str = "s", key: str | None = None) -> Session:
    return Session(
        session_id=session_id,
        owner="local",
        idempotency_key=key,
        tags=["a"],
        user_metadata={"n": 1},
        sdk_version="0.38.0",
        created_at=NOW,
    )


def model(model_id: str) -> Model:
    return Model(
        model_id=model_id,
        owner="local",
        session_id="s",
        base_model="tiny",
        rank=4,
        train_attn=True,
        train_mlp=True,
        train_unembed=False,
        user_metadata=None,
        created_at=NOW,
        last_request_at=NOW,
    )


def snapshot(seq_id: int) -> Snapshot:
    return Snapshot(
        snapshot_id=f"snapshot-{seq_id}", owner="local", model_id="run", seq_id=seq_id, size_bytes=1, created_at=NOW
    )


def checkpoint(checkpoint_id: str, name: str | None, **fields: object) -> Checkpoint:
    given = {
        "owner": "local",
        "model_id": "run",
        "kind": CheckpointKind.TRAINING,
        "size_bytes": 10,
        "step": 1,
        "user_metadata": {"k": "v"},
        "created_at": NOW,
        "expires_at": None,
    } | fields
    return Checkpoint(checkpoint_id=checkpoint_id, name=name, **given)  # pyright: ignore[reportArgumentType]


def with_run(db: Connection) -> None:
    sessions.add_session(db, session())
    models.add(db, model("run"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.sqlite3"


@pytest.fixture
def store(path: Path):
    opened = Store(path)
    yield opened
    opened.close()


def test_an_acknowledged_operation_is_on_disk_when_the_writer_returns(store: Store, path: Path):
    asyncio.run(store.write(lambda db: operations.append(db, operation("op-1", seq_id=3))))
    with sqlite3.connect(path) as other:  # a second connection sees what is committed, and nothing else
        assert other.execute("SELECT op_id, seq_id, status FROM operations").fetchall() == [("op-1", 3, "pending")]
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()


@pytest.mark.parametrize("fate", ["moved", "deleted", "replaced"])
def test_nothing_is_acknowledged_once_the_file_is_no_longer_in_its_place(store: Store, path: Path, fate: str):
    """The next server would find another log there, and none of it."""
    asyncio.run(store.write(lambda db: operations.append(db, operation("before"))))
    aside = path.rename(path.with_name("aside"))
    if fate == "replaced":
        path.write_bytes(aside.read_bytes())
    for op_id in ("during", "later"):
        with pytest.raises(LogReplaced, match="moved, deleted or replaced"):
            asyncio.run(store.write(lambda db, op_id=op_id: operations.append(db, operation(op_id))))
    if fate == "deleted":
        aside.unlink()
        return
    aside.replace(path)
    asyncio.run(store.write(lambda db: operations.append(db, operation("after"))))


def test_many_writers_share_commits_and_each_gets_its_own_answer(store: Store):
    async def write_all() -> list[OperationRow]:
        changes = [operation(f"op-{n}", seq_id=n) for n in range(300)]
        return await asyncio.gather(*(store.write(lambda db, row=row: operations.append(db, row)) for row in changes))

    assert [row.op_id for row in asyncio.run(write_all())] == [f"op-{n}" for n in range(300)]


def test_a_change_that_fails_undoes_itself_alone(store: Store):
    def broken(db: Connection) -> None:
        operations.append(db, operation("half"))
        raise RuntimeError("stop")

    async def write_both() -> tuple[Any, ...]:
        good = store.write(lambda db: operations.append(db, operation("whole")))
        return await asyncio.gather(store.write(broken), good, return_exceptions=True)

    failed, _ = asyncio.run(write_both())
    assert isinstance(failed, RuntimeError)
    kept = asyncio.run(store.read(lambda db: (operations.get(db, "half"), operations.get(db, "whole"))))
    assert kept[0] is None
    assert kept[1] == operation("whole")


_FULL = sqlite3.OperationalError("database or disk is full")


@pytest.mark.parametrize("error", [OperationalError("INSERT", {}, _FULL), _FULL], ids=["usual", "prepared"])
def test_a_disk_that_undoes_a_whole_group_lets_no_part_of_it_stand(store: Store, error: Exception):
    """SQLite may do so; what came next in the group then used to be stored although its caller was refused."""
    is_gathered = threading.Event()

    def undone(db: Connection) -> None:
        db.exec_driver_sql("ROLLBACK")
        raise error

    async def write_group() -> list[Any]:
        holding = store.write(lambda db: is_gathered.wait(5))
        group = [
            store.write(lambda db: operations.append(db, operation("before"))),
            store.write(undone),
            store.write(lambda db: operations.append(db, operation("behind"))),
        ]
        waiting = [asyncio.ensure_future(each) for each in (holding, *group)]
        await asyncio.sleep(0.1)
        is_gathered.set()
        return (await asyncio.gather(*waiting, return_exceptions=True))[1:]

    refused = asyncio.run(write_group())
    assert [type(error) for error in refused] == [LogFull] * 3
    assert "database or disk is full" in refused[0].message
    kept = asyncio.run(store.read(lambda db: (operations.get(db, "before"), operations.get(db, "behind"))))
    assert kept == (None, None)
    asyncio.run(store.write(lambda db: operations.append(db, operation("later"))))


@pytest.mark.parametrize("is_loop_closed", [False, True])
def test_a_caller_that_has_gone_leaves_its_change_and_the_writer(store: Store, is_loop_closed: bool):
    may_go_on = threading.Event()

    def held(db: Connection) -> None:
        may_go_on.wait(5)
        operations.append(db, operation("left"))

    async def give_up() -> None:
        writing = asyncio.ensure_future(store.write(held))
        await asyncio.sleep(0.05)
        writing.cancel()
        if not is_loop_closed:
            may_go_on.set()
            await store.write(lambda db: operations.append(db, operation("in the same loop")))

    asyncio.run(give_up())
    may_go_on.set()
    asyncio.run(asyncio.wait_for(store.write(lambda db: operations.append(db, operation("later"))), 5))
    assert asyncio.run(store.read(lambda db: operations.get(db, "left"))) == operation("left")


def test_a_repeat_is_the_same_operation_whatever_its_body(store: Store):
    def append(op_id: str, lane: str = "run") -> str:
        new = operation(op_id, lane=lane, seq_id=1)
        return asyncio.run(store.write(lambda db: operations.append(db, new))).op_id

    assert append("first") == "first"
    assert append("second") == "first"
    assert append("third", lane="other") == "third"


def test_outcomes_are_numbered_in_their_lane_in_the_order_in_which_they_come(store: Store):
    def settle(db: Connection) -> None:
        for lane, seq_id in (("a", 0), ("a", 1), ("a", 2), ("a", 10**18), ("b", 0)):
            operations.append(db, operation(f"{lane}{seq_id}", lane=lane, seq_id=seq_id))
        finish(db, "a1", b"12345")
        finish(db, "b0", b"1")
        operations.lose(db, "a0", NOW)
        finish(db, f"a{10**18}", b"1")

    def completions(after: int, seq_ids: range = range(10**9)) -> list[tuple[str, int, str, int | None]]:
        found = asyncio.run(
            store.read(lambda db: operations.completions(db, "a", after=after, seq_ids=seq_ids, limit=9))
        )
        return [(row.op_id, row.completion, row.status, row.num_bytes) for row in found]

    asyncio.run(store.write(settle))
    assert completions(0) == [("a1", 1, "done", 5), ("a0", 2, "lost", None)]
    assert completions(1) == [("a0", 2, "lost", None)]
    assert completions(2) == []
    assert completions(0, range(10**18, 10**18 + 10**9)) == [(f"a{10**18}", 3, "done", 1)]


def test_the_newest_inflight_save_counts_in_whatever_order_they_were_stored(store: Store):
    def sampler(name: str, save_seq_id: int | None) -> SamplingSession:
        inflight = {"inflight_model_id": "run", "save_seq_id": save_seq_id} if save_seq_id else {}
        return SamplingSession(
            sampling_session_id=name,
            owner="local",
            session_id="s",
            seq_id=None,
            base_model="tiny",
            checkpoint_id=f"of-{name}",
            created_at=NOW,
            **inflight,  # pyright: ignore[reportArgumentType]
        )

    def save_out_of_order(db: Connection) -> tuple[list[str | None], list[str]]:
        with_run(db)
        samplers = [sampler("snapshot", None), sampler("first", 3), sampler("third", 9), sampler("second", 5)]
        for each in samplers:
            checkpoints.add(db, checkpoint(f"of-{each.sampling_session_id}", None), overwrite=False)
            sessions.add_sampling_session(db, each)
            checkpoints.remove_superseded(db, "run", NOW)
        return [sessions.current_checkpoint_id(db, each) for each in samplers], checkpoints.removed(db, NOW)

    current, removed = asyncio.run(store.write(save_out_of_order))
    assert current == ["of-snapshot", "of-third", "of-third", "of-third"]
    assert sorted(removed) == ["of-first", "of-second"]


def test_an_outcome_is_written_once(store: Store):
    def outcome(db: Connection) -> OperationRow | None:
        operations.append(db, operation("op"))
        finish(db, "op")
        operations.fail(db, "op", Failure(category="server", code="late", message="late"), now=NOW)
        return operations.get(db, "op")

    row = asyncio.run(store.write(outcome))
    assert row is not None
    assert (row.status, row.result, row.error_code) == (OperationStatus.DONE, b"{}", None)


def test_results_are_served_again_after_a_restart_until_they_expire(path: Path):
    def run(db: Connection) -> None:
        operations.append(db, operation("op"))
        finish(db, "op")

    first = Store(path)
    asyncio.run(first.write(run))
    first.close()
    second = Store(path)
    row = asyncio.run(second.read(lambda db: operations.get(db, "op")))
    assert row is not None
    assert (row.result, row.finished_at) == (b"{}", NOW)
    asyncio.run(second.write(lambda db: operations.expire_results(db, NOW + timedelta(seconds=1))))
    row = asyncio.run(second.read(lambda db: operations.get(db, "op")))
    second.close()
    assert row is not None
    assert (row.status, row.result) == (OperationStatus.EXPIRED, None)


def test_the_outcomes_of_five_hundred_engines_that_were_replaced_are_refused(store: Store):
    """An engine that was stopped for so long that another took over, and then woke up."""

    def outlive_an_engine(db: Connection) -> None:
        stale = epochs.begin(db, NOW)
        newest = epochs.begin(db, NOW)
        op_id = f"op-{stale}"
        operations.append(db, operation(op_id))
        failure = Failure(category="server", code="late", message="late")
        with pytest.raises(StaleEpoch):
            operations.finish(
                db, op_id, epoch=stale, media_type="text/plain", result=b"late", keeps_payload=True, now=NOW
            )
        with pytest.raises(StaleEpoch):
            operations.fail(db, op_id, failure, now=NOW, epoch=stale)
        row = operations.get(db, op_id)
        assert row is not None
        assert row.status is OperationStatus.PENDING
        operations.finish(db, op_id, epoch=newest, media_type="text/plain", result=b"new", keeps_payload=True, now=NOW)
        row = operations.get(db, op_id)
        assert row is not None
        assert (row.result, row.epoch) == (b"new", newest)

    for _ in range(500):
        asyncio.run(store.write(outlive_an_engine))


def test_equal_work_is_kept_once_and_no_longer_than_some_operation_may_need_it(store: Store):
    def kept(db: Connection) -> dict[str, bytes]:
        rows = [operations.get(db, op_id) for op_id in ("one", "two", "three")]
        return payloads.contents(db, [row.payload for row in rows if row is not None and row.payload is not None])

    def scenario(db: Connection) -> list[list[bytes]]:
        for seq_id, op_id in enumerate(("one", "two", "three")):
            operations.append(db, operation(op_id, seq_id=seq_id), b"same" if seq_id < 2 else b"other")
        seen = [sorted(kept(db).values())]
        finish(db, "one", keeps_payload=True)
        finish(db, "two", keeps_payload=False)
        payloads.drop_unused(db)
        seen.append(sorted(kept(db).values()))
        payloads.release_covered(db, "run", 1)
        seen.append(sorted(kept(db).values()))
        return seen

    seen = asyncio.run(store.write(scenario))
    assert seen == [[b"other", b"same"], [b"other", b"same"], [b"other"]]


def test_two_snapshots_are_kept_and_the_operations_since_the_older_one(store: Store):
    def scenario(db: Connection) -> tuple[list[int], list[int | None]]:
        with_run(db)
        for seq_id in range(10):
            operations.append(db, operation(f"op-{seq_id}", seq_id=seq_id), bytes([seq_id]))
            finish(db, f"op-{seq_id}", keeps_payload=True)
            if seq_id % 3 == 0:
                snapshots.add(db, snapshot(seq_id))
        kept = [each.seq_id for each in snapshots.of_model(db, "run")]
        return kept, [row.seq_id for row in operations.to_replay(db, "run")]

    kept, replayed = asyncio.run(store.write(scenario))
    assert kept == [9, 6]
    assert replayed == [7, 8, 9]


def test_times_keep_their_instant_and_come_back_in_utc(store: Store):
    tokyo = NOW.astimezone(timezone(timedelta(hours=9)))
    asyncio.run(store.write(lambda db: operations.append(db, OperationRow(
        op_id="op", owner="local", lane="run", seq_id=None, kind=OperationKind.SAMPLE, created_at=tokyo))))  # fmt: skip
    row = asyncio.run(store.read(lambda db: operations.get(db, "op")))
    assert row is not None
    assert (row.created_at, row.created_at.utcoffset()) == (NOW, timedelta(0))


def test_a_session_is_made_once_per_idempotency_key(store: Store):
    def both(db: Connection) -> list[str]:
        return [sessions.add_session(db, session(name, key="k")).session_id for name in ("first", "second")]

    assert asyncio.run(store.write(both)) == ["first", "first"]


def test_one_live_checkpoint_has_a_name_and_overwrite_replaces_it(store: Store):
    def save_twice(db: Connection) -> None:
        with_run(db)
        checkpoints.add(db, checkpoint("old", "a"), overwrite=False)

    asyncio.run(store.write(save_twice))
    with pytest.raises(AlreadyExists, match="tinker://run/weights/a exists already"):
        asyncio.run(store.write(lambda db: checkpoints.add(db, checkpoint("new", "a"), overwrite=False)))
    asyncio.run(store.write(lambda db: checkpoints.add(db, checkpoint("new", "a"), overwrite=True)))

    def found(db: Connection) -> tuple[Checkpoint | None, list[str]]:
        return checkpoints.by_name(db, "run", CheckpointKind.TRAINING, "a"), checkpoints.removed(db, NOW)

    live, removed = asyncio.run(store.read(found))
    assert live is not None
    assert (live.checkpoint_id, removed) == ("new", ["old"])


def test_unnamed_and_expired_checkpoints_are_not_listed(store: Store):
    def fill(db: Connection) -> tuple[list[Checkpoint], int]:
        with_run(db)
        checkpoints.add(db, checkpoint("unnamed", None, kind=CheckpointKind.SAMPLER), overwrite=False)
        checkpoints.add(db, checkpoint("expired", "b", expires_at=NOW), overwrite=False)
        checkpoints.add(db, checkpoint("kept", "c"), overwrite=False)
        return checkpoints.of_owner(db, "local", Page(offset=0, limit=10), NOW)

    rows, total = asyncio.run(store.write(fill))
    assert ([row.checkpoint_id for row in rows], total) == (["kept"], 1)


def test_a_run_that_ended_keeps_its_first_reason(store: Store):
    def end_twice(db: Connection) -> Model | None:
        with_run(db)
        models.set_status(db, ["run"], ModelStatus.UNLOADED)
        models.set_status(db, ["run"], ModelStatus.LOST)
        return models.get(db, "run")

    row = asyncio.run(store.write(end_twice))
    assert row is not None
    assert row.status is ModelStatus.UNLOADED


def test_above_their_limit_the_oldest_results_go_and_the_promises_stay(store: Store):
    def scenario(db: Connection) -> tuple[list[int], list[str]]:
        dropped = []
        for seq_id in range(5):
            operations.append(db, operation(f"op-{seq_id}", seq_id=seq_id))
            operations.finish(
                db, f"op-{seq_id}", epoch=1, media_type="x", result=bytes(100), keeps_payload=False,
                now=NOW + timedelta(seconds=seq_id))  # fmt: skip
            dropped.append(operations.drop_oldest_results(db, 300))
        repeats = [operations.append(db, operation("again", seq_id=seq_id)) for seq_id in range(5)]
        return dropped, [f"{row.op_id} {row.status} {len(row.result or b'')}" for row in repeats]

    asyncio.run(store.write(lambda db: epochs.begin(db, NOW)))
    assert asyncio.run(store.write(scenario)) == (
        [0, 0, 0, 1, 1],
        ["op-0 expired 0", "op-1 expired 0", "op-2 done 100", "op-3 done 100", "op-4 done 100"],
    )


def test_the_plan_of_an_operation_goes_with_its_outcome_and_its_number_still_counts_as_run(store: Store):
    def scenario(db: Connection) -> tuple[bytes | None, int]:
        planned = msgspec.structs.replace(operation("op", seq_id=7), plan=b"what to do")
        operations.append(db, planned)
        before = operations.last_run(db, "run")
        finish(db, "op")
        row = operations.get(db, "op")
        assert row is not None
        return row.plan, operations.last_run(db, "run") - before

    assert asyncio.run(store.write(scenario)) == (b"", 7)


@pytest.mark.parametrize("owners", [["ann", "bob"], ["bob", "ann"]])
def test_a_name_means_the_run_of_the_owner_who_is_asked_first(store: Store, owners: list[str]):
    def named(db: Connection) -> list[list[Model]]:
        sessions.add_session(db, session())
        for owner in ("ann", "bob"):
            models.add(db, msgspec.structs.replace(model(f"of-{owner}"), owner=owner, name="mine"))
        return [models.meant(db, reference, owners) for reference in ("mine", "of-ann")]

    by_name, by_id = asyncio.run(store.write(named))
    assert [each.model_id for each in by_name] == [f"of-{owners[0]}"]
    assert [each.model_id for each in by_id] == ["of-ann"]
