"""Keeps the started operations of one run going, through any number of engines."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial

from eztinker.errors import EngineLost, EZTinkerError, LogUnwritable, ServerError
from eztinker.protocol.frames import (
    Failed,
    LoadModel,
    Sample,
    SaveCheckpoint,
    TrainingCommand,
    UnloadModel,
    changes_state,
)
from eztinker.service.execution.engine_process import MAX_DEATHS, Answer, EngineDied, EngineProcess
from eztinker.service.execution.new_operation import NewOperation
from eztinker.service.execution.operations import STORE_RETRY_SECONDS, Operations
from eztinker.service.execution.recovery import Recovery
from eztinker.service.execution.snapshots import Snapshots
from eztinker.types import CheckpointKind

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Entry:
    """A started operation whose outcome is not in the log yet."""

    new: NewOperation
    is_sent: bool = False
    num_deaths: int = 0
    """Engines that died with it in hand."""
    stored: asyncio.Task[None] | None = None


class RunFeed:
    """Sends a run's operations to the engine in the order of `start`, once the run's state is there.

    When the engine dies, the state is brought back in the next one and what has no answer is sent again. An operation
    that takes `MAX_DEATHS` engines with it fails; the run goes on from the state before it.
    """

    def __init__(
        self,
        model_id: str,
        operations: Operations,
        engine: EngineProcess,
        recovery: Recovery,
        snapshots: Snapshots,
    ) -> None:
        self._model_id = model_id
        self._operations = operations
        self._engine = engine
        self._recovery = recovery
        self._snapshots = snapshots
        self._entries: dict[str, _Entry] = {}
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._is_over = False
        self._owner = ""
        self._epoch: int | None = None
        """The engine that holds the run's state, if one ever did."""
        self._last_stored: asyncio.Task[None] | None = None
        """Stores the newest outcome. They are stored in order: a server that finds one in the log must be right to take
        all before it for done, or it would run an earlier operation after a later one."""
        self._answers: list[tuple[_Entry, Answer]] = []
        """Those that came just now, in order; they are stored in one commit."""
        self._last_sent = 0
        self._pace = snapshots.pace()
        self._restoring: asyncio.Task[None] | None = None
        self._saving: asyncio.Task[None] | None = None

    def start(self, new: NewOperation) -> None:
        self._owner = new.owner
        self._is_over = self._is_over or isinstance(new.work, UnloadModel)
        self._entries[new.op_id] = _Entry(new)
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

    def _unsent(self) -> list[_Entry]:
        return [entry for entry in self._entries.values() if not entry.is_sent and entry.stored is None]

    def _advance(self) -> None:
        if self._epoch is not None and self._epoch == self._engine.epoch:
            self._send_all(self._epoch)
        elif self._restoring is None and self._unsent():
            self._restoring = asyncio.create_task(self._restore(), name=f"restore {self._model_id}")

    async def _restore(self) -> None:
        try:
            while unsent := self._unsent():
                try:
                    needs_state = not all(isinstance(entry.new.work, UnloadModel) for entry in unsent)
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
        for entry in self._unsent():
            entry.is_sent = True
            self._last_sent = max(self._last_sent, entry.new.seq_id or 0)
            assert not isinstance(entry.new.work, Sample)
            answer = self._engine.train(entry.new.work, owner=self._owner, epoch=epoch)
            answer.add_done_callback(partial(self._answered, entry))

    def _answered(self, entry: _Entry, answer: asyncio.Future[Answer]) -> None:
        if answer.cancelled():
            return  # the server stops
        error = answer.exception()
        if error is None:
            self._answers.append((entry, answer.result()))
            if len(self._answers) == 1:
                asyncio.get_running_loop().call_soon(self._settle_answers)
            return
        assert isinstance(error, EngineDied)
        entry.is_sent = False
        entry.num_deaths += error.in_hand
        if entry.num_deaths == MAX_DEATHS:
            message = f"The engine stopped {MAX_DEATHS} times over this operation; the run is as it was before it"
            self._fail(entry, EngineLost(message))
        self._advance()

    def _fail_all(self, error: EZTinkerError) -> None:
        for entry in self._unsent():
            self._fail(entry, error)

    def _settle_answers(self) -> None:
        answers, self._answers = self._answers, []
        if len(answers) > 1:
            together = [(entry.new, answer) for entry, answer in answers]
            self._last_stored = self._operations.settle_together(together, after=self._last_stored)
        for entry, answer in answers:
            self._settle(entry, self._operations.settle(entry.new, answer, after=self._last_stored))

    def _fail(self, entry: _Entry, error: EZTinkerError) -> None:
        self._settle_answers()  # which came before
        self._settle(entry, self._operations.fail(entry.new, error, after=self._last_stored))

    def _settle(self, entry: _Entry, stored: asyncio.Task[None]) -> None:
        entry.stored = self._last_stored = stored
        stored.add_done_callback(partial(self._stored, entry))

    def _stored(self, entry: _Entry, stored: asyncio.Task[None]) -> None:
        if stored.cancelled() or stored.exception() is not None:
            return  # still pending in the log, so it stays here, and no snapshot will cover it
        del self._entries[entry.new.op_id]
        if not self._entries:
            self._is_idle.set()
        work = entry.new.work
        self._pace.num_changes += not isinstance(work, Sample) and changes_state(work)
        if isinstance(work, LoadModel) or _is_training_save(work):
            self._pace.hurry()
        self._save_if_due()

    def _save_if_due(self) -> None:
        if self._pace.is_due and self._saving is None and not self._is_over:
            self._saving = asyncio.create_task(self._save(), name=f"snapshot {self._model_id}")

    async def _save(self) -> None:
        """Snapshot the run after the last operation sent so far."""
        if self._epoch is None:
            return
        covered = [entry for entry in self._entries.values() if entry.is_sent]
        seq_id = self._last_sent
        command = self._snapshots.command(self._model_id, seq_id)
        self._pace.restart()
        try:
            answer = await self._engine.train(command, owner=self._owner, epoch=self._epoch)
            if isinstance(answer.event, Failed):
                log.error("A snapshot failed: %s", answer.event.message, extra={"event": "snapshot_failed"})
                return
            # The engine works in order: it has answered all of these, and their outcomes must be in the log first.
            self._settle_answers()
            await asyncio.gather(*(entry.stored for entry in covered if entry.stored is not None))
            await self._snapshots.add(command, owner=self._owner, seq_id=seq_id, answer=answer)
        except EngineDied:
            pass  # the operations behind the last snapshot are run again
        except Exception:
            log.exception("A snapshot was not taken", extra={"event": "snapshot_failed"})
        finally:
            self._snapshots.drop(command)
            self._saving = None
            self._save_if_due()


def _is_training_save(work: TrainingCommand | Sample) -> bool:
    return isinstance(work, SaveCheckpoint) and work.kind is CheckpointKind.TRAINING
