"""Outcomes that come together share a commit, and one that cannot be stored takes no other with it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from eztinker.oplog import epochs, operations, store
from eztinker.oplog.rows import Failure
from eztinker.oplog.store import Store
from eztinker.protocol.frames import Created, OptimStep, OptimStepDone, Outcome
from eztinker.service.clock import Clock
from eztinker.service.execution.engine_process import EngineProcess
from eztinker.service.execution.futures import Done, Futures
from eztinker.service.execution.operation import LiveOperations, Operation
from eztinker.service.execution.plans import StepPlan
from eztinker.service.execution.recovery import Recovery
from eztinker.service.execution.run_feed import RunFeed
from eztinker.service.execution.snapshots import Snapshots
from eztinker.types import AdamParams, AdapterState, LoraSpec, OperationKind, OptimStepResult

EPOCH = 1
OP_IDS = ("first", "second")
STEP_DONE = {op_id: OptimStepDone(op_id=op_id, result=OptimStepResult(metrics={})) for op_id in OP_IDS}
WRONG = Created(op_id="first", state=AdapterState(lora=LoraSpec(rank=1, seed=0), base_model="tiny", step=0))
"""No answer to a step, so its plan breaks over it."""


class HeldEngine:
    """Takes commands, and answers when it is told to."""

    epoch = EPOCH

    def __init__(self) -> None:
        self.answers: dict[str, asyncio.Future[Outcome]] = {}

    def train(self, operation: Operation, *, epoch: int) -> asyncio.Future[Outcome]:
        operation.is_sent, operation.epoch = True, epoch
        return self.answers.setdefault(operation.op_id, asyncio.get_running_loop().create_future())


class StateIsThere:
    async def restore(self, model_id: str, *, owner: str) -> int:
        return EPOCH


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "oplog.sqlite3")
    yield opened
    opened.close()


@pytest.mark.parametrize(("first", "num_commits"), [(STEP_DONE["first"], 1), (WRONG, 2)], ids=["whole", "one breaks"])
def test_what_is_answered_together_is_stored_in_order_whatever_breaks(
    log: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: Outcome, num_commits: int
):
    commits: list[str] = []

    async def answered_together() -> list[Done | Failure | None]:
        clock, engine = Clock(), HeldEngine()
        await log.write(lambda db: epochs.begin(db, clock.now()))
        futures = Futures(log, clock, LiveOperations())
        snapshots = Snapshots(log, tmp_path, clock, max_changes=100, max_seconds=100)
        feed = RunFeed("run", futures, cast(EngineProcess, engine), cast(Recovery, StateIsThere()), snapshots)
        for seq_id, op_id in enumerate(OP_IDS, 1):
            work = OptimStep(op_id=op_id, model_id="run", adam=AdamParams())
            operation = Operation(
                op_id=op_id,
                owner="o",
                lane="run",
                seq_id=seq_id,
                kind=OperationKind.OPTIM_STEP,
                work=work,
                plan=StepPlan(),
            )
            await futures.accept(operation)
            feed.start(operation)
        while len(engine.answers) < len(OP_IDS):
            await asyncio.sleep(0)
        monkeypatch.setattr(store, "reach", commits.append)
        for event in (first, STEP_DONE["second"]):
            engine.answers[event.op_id].set_result(event)
        outcomes = [await futures.outcome("o", op_id, hold_seconds=10) for op_id in OP_IDS]
        await futures.settled()
        return outcomes

    outcomes = asyncio.run(answered_together())
    assert [type(outcome) for outcome in outcomes] == [Done if first is STEP_DONE["first"] else Failure, Done]
    assert commits.count("log.commit") == num_commits
    rows = asyncio.run(log.read(lambda db: [operations.get(db, op_id) for op_id in OP_IDS]))
    assert [row and row.completion for row in rows] == [1, 2]
