"""Keeps the started operations of one run going, through any number of engines."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from eztinker.errors import EngineLost, EZTinkerError, LogUnwritable, ServerError
from eztinker.oplog.rows import Failure
from eztinker.protocol.frames import Failed, LoadModel, Outcome, Sample, SaveCheckpoint, UnloadModel, changes_state
from eztinker.service.execution.engine_process import MAX_DEATHS, EngineDied, EngineProcess
from eztinker.service.execution.futures import Futures
from eztinker.service.execution.operation import Operation
from eztinker.service.execution.outcome_writer import STORE_RETRY_SECONDS
from eztinker.service.execution.recovery import Recovery
from eztinker.service.execution.snapshots import Snapshots
from eztinker.types import CheckpointKind

log = logging.getLogger(__name__)


class RunFeed:
    """Sends a run's operations to the engine in the order of `start`, once the run's state is there.

    When the engine dies, the state is brought back in the next one and what has no answer is sent again. An operation
    that takes `MAX_DEATHS` engines with it fails; the run goes on from the state before it.
    """

    def __init__(
        self, model_id: str, futures: Futures, engine: EngineProcess, recovery: Recovery, snapshots: Snapshots
    ) -> None:
        self._model_id = model_id
        self._engine = engine
        self._recovery = recovery
        self._snapshots = snapshots
        self._writer = futures.writer(self._settled)
        self._started: list[Operation] = []
        """Operations whose outcome is not in the log, in their order."""
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._is_over = False
        self._owner = ""
        self._epoch: int | None = None
        """The engine that holds the run's state, if one ever did."""
        self._last_sent = 0
        self._pace = snapshots.pace()
        self._restoring: asyncio.Task[None] | None = None
        self._saving: asyncio.Task[None] | None = None

    def start(self, operation: Operation) -> None:
        """Take the run's next operation: it is sent as soon as the engine has what the run was before it."""
        self._owner = operation.owner
        self._is_over = self._is_over or isinstance(operation.work, UnloadModel)
        self._started.append(operation)
        self._is_idle.clear()
        self._advance()

    async def park(self) -> None:
        """Finish what has been started, and leave a snapshot from which the run goes on at once."""
        await self._is_idle.wait()
        if self._saving is not None:
            await self._saving
        if self._pace.num_changes and not self._is_over:
            await self._save()

    def stop(self) -> None:
        """Give up what is not in the log yet; the log has it as pending."""
        for task in (self._restoring, self._saving):
            if task is not None:
                task.cancel()

    def _unsent(self) -> list[Operation]:
        return [each for each in self._started if not each.is_sent and each.ending is None]

    def _advance(self) -> None:
        if self._epoch is not None and self._epoch == self._engine.epoch:
            self._send_all(self._epoch)
        elif self._restoring is None and self._unsent():
            self._restoring = asyncio.create_task(self._restore(), name=f"restore {self._model_id}")

    async def _restore(self) -> None:
        try:
            while unsent := self._unsent():
                try:
                    needs_state = not all(isinstance(each.work, UnloadModel) for each in unsent)
                    if needs_state:
                        self._epoch = await self._recovery.restore(self._model_id, owner=self._owner)
                    else:
                        self._epoch = await self._engine.available()
                except EngineDied:
                    continue
                except LogUnwritable:  # what was accepted is done all the same, when the disk is there again
                    await asyncio.sleep(STORE_RETRY_SECONDS)
                    continue
                if self._epoch == self._engine.epoch:
                    self._send_all(self._epoch)
        except EZTinkerError as error:
            self._fail_all(error)
        except Exception:
            log.exception("A run cannot be brought back", extra={"event": "recovery_broken"})
            self._fail_all(ServerError("The server could not bring the training run back; its log says why"))
        finally:
            self._restoring = None

    def _send_all(self, epoch: int) -> None:
        for operation in self._unsent():
            self._last_sent = max(self._last_sent, operation.seq_id or 0)
            answer = self._engine.train(operation, epoch=epoch)
            answer.add_done_callback(partial(self._answered, operation))

    def _answered(self, operation: Operation, answer: asyncio.Future[Outcome]) -> None:
        if answer.cancelled():
            return  # the server stops
        error = answer.exception()
        if error is None:
            self._writer.put(operation, answer.result())
            return
        assert isinstance(error, EngineDied)
        if operation.num_deaths == MAX_DEATHS:
            message = f"The engine stopped {MAX_DEATHS} times over this operation; the run is as it was before it"
            self._writer.put(operation, Failure.of(EngineLost(message)))
        self._advance()

    def _fail_all(self, error: EZTinkerError) -> None:
        for operation in self._unsent():
            self._writer.put(operation, Failure.of(error))

    def _settled(self, operation: Operation) -> None:
        """The log has the outcome; what it could not take stays here, and no snapshot will cover it."""
        self._started.remove(operation)
        if not self._started:
            self._is_idle.set()
        work = operation.work
        assert not isinstance(work, Sample | EZTinkerError)
        self._pace.num_changes += changes_state(work)
        is_training_save = isinstance(work, SaveCheckpoint) and work.kind is CheckpointKind.TRAINING
        if isinstance(work, LoadModel) or is_training_save:
            self._pace.hurry()
        self._save_if_due()

    def _save_if_due(self) -> None:
        if self._pace.is_due and self._saving is None and not self._is_over:
            self._saving = asyncio.create_task(self._save(), name=f"snapshot {self._model_id}")

    async def _save(self) -> None:
        """Snapshot the run after the last operation sent so far."""
        if self._epoch is None:
            return
        covered = [each for each in self._started if each.is_sent or each.ending is not None]
        seq_id = self._last_sent
        snapshot = self._snapshots.operation(self._model_id, seq_id, owner=self._owner)
        self._pace.restart()
        try:
            answer = await self._engine.train(snapshot, epoch=self._epoch)
            if isinstance(answer, Failed):
                log.error("A snapshot failed: %s", answer.message, extra={"event": "snapshot_failed"})
                return
            # The engine works in order: it has answered all of these, and their outcomes must be in the log first.
            if await self._writer.stored(covered):
                await self._snapshots.add(snapshot, seq_id=seq_id, answer=answer)
        except EngineDied:
            pass  # the operations behind the last snapshot are run again
        except Exception:
            log.exception("A snapshot was not taken", extra={"event": "snapshot_failed"})
        finally:
            self._snapshots.drop(snapshot)
            self._saving = None
            self._save_if_due()
