"""Outcomes reach the log in order and once, whatever the log says to some of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from eztinker.errors import LogFull
from eztinker.oplog import epochs, operations
from eztinker.oplog.rows import Failure, OperationRow
from eztinker.oplog.store import Store
from eztinker.protocol.frames import OptimStep, OptimStepDone
from eztinker.service.clock import Clock
from eztinker.service.execution import outcome_writer
from eztinker.service.execution.futures import Futures
from eztinker.service.execution.operation import LiveOperations, Operation
from eztinker.service.execution.plans import Done, StepPlan
from eztinker.types import AdamParams, OperationKind, OptimStepResult

NAMES = ("a", "b", "c")
ENGINE_LOST = Failure(category="server", code="engine_lost", message="lost")


class RefusingStore(Store):
    """Refuses its first changes while it is told to."""

    num_refusals = 0
    num_changes = 0

    async def write(self, change: Callable[[Connection], Any]) -> Any:
        self.num_changes += 1
        if self.num_refusals:
            self.num_refusals -= 1
            raise LogFull("full")
        return await super().write(change)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[RefusingStore]:
    opened = RefusingStore(tmp_path / "oplog.sqlite3")
    yield opened
    opened.close()


class Written:
    """Steps of one run that have been answered together, and what the log made of them."""

    def __init__(self, store: RefusingStore) -> None:
        self.live = LiveOperations()
        self.futures = Futures(store, Clock(), self.live)
        self.told: list[str] = []
        self.writer = self.futures.writer(lambda operation: self.told.append(operation.op_id))
        self.steps: dict[str, Operation] = {}

    async def accept(self) -> None:
        for seq_id, name in enumerate(NAMES, 1):
            work = OptimStep(op_id=name, model_id="run", adam=AdamParams())
            kind, plan = OperationKind.OPTIM_STEP, StepPlan()
            step = Operation(op_id=name, owner="o", lane="run", seq_id=seq_id, kind=kind, work=work, plan=plan)
            await self.futures.accept(step)
            self.steps[name] = step

    def put(self, name: str, *, epoch: int) -> None:
        self.steps[name].epoch = epoch
        self.writer.put(self.steps[name], OptimStepDone(op_id=name, result=OptimStepResult(metrics={})))


async def rows(store: Store) -> list[OperationRow]:
    found = await store.read(lambda db: [operations.get(db, name) for name in NAMES])
    return [row for row in found if row is not None]


def test_outcomes_that_come_while_others_are_stored_follow_in_order(log: RefusingStore):
    async def scenario() -> tuple[Written, int]:
        written = Written(log)
        epoch = await log.write(lambda db: epochs.begin(db, Clock().now()))
        await written.accept()
        num_changes = log.num_changes
        written.put("b", epoch=epoch)
        await asyncio.sleep(0)  # b is on its way
        written.put("c", epoch=epoch)
        written.writer.put(written.steps["a"], ENGINE_LOST)
        assert await written.writer.stored(list(written.steps.values()))
        return written, log.num_changes - num_changes

    written, num_changes = asyncio.run(scenario())
    assert written.told == ["b", "c", "a"]
    assert num_changes == 2
    assert [row.completion for row in asyncio.run(rows(log))] == [3, 1, 2]
    assert len(written.live) == 0


def test_a_log_that_refuses_is_asked_until_it_takes_all_in_order(log: RefusingStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(outcome_writer, "STORE_RETRY_SECONDS", 0.001)

    async def scenario() -> Written:
        written = Written(log)
        epoch = await log.write(lambda db: epochs.begin(db, Clock().now()))
        await written.accept()
        log.num_refusals = 5
        for name in NAMES:
            written.put(name, epoch=epoch)
        await written.futures.settled()
        return written

    written = asyncio.run(scenario())
    assert written.told == list(NAMES)
    assert [row.completion for row in asyncio.run(rows(log))] == [1, 2, 3]
    assert {type(step.outcome and step.outcome.result()) for step in written.steps.values()} == {Done}


def test_what_a_replaced_engine_says_is_not_stored_and_keeps_nothing_else_back(log: RefusingStore):
    async def scenario() -> Written:
        written = Written(log)
        old = await log.write(lambda db: epochs.begin(db, Clock().now()))
        new = await log.write(lambda db: epochs.begin(db, Clock().now()))
        await written.accept()
        for name, epoch in (("a", new), ("b", old), ("c", new)):
            written.put(name, epoch=epoch)
        assert not await written.writer.stored(list(written.steps.values()))
        return written

    written = asyncio.run(scenario())
    assert written.told == ["a", "c"]
    assert [(row.status, row.completion) for row in asyncio.run(rows(log))] == [
        ("done", 1), ("pending", None), ("done", 2)]  # fmt: skip
    assert [operation.op_id for operation in written.live] == ["b"]
