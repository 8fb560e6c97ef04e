"""The engine, kept alive: operations go in, each is answered with one outcome, and a dead or stuck engine is replaced.

What happens to an operation when the engine dies depends on what it does. A sample reads only what lies on disk, so it
is sent again to the next engine. A training operation changes state that died with the engine, so its answer is
`EngineDied`, and `RunFeed` brings the state back before it hands the operation over again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec

from eztinker.errors import Cancelled, EngineLost, EZTinkerError
from eztinker.protocol.frames import (
    AnyEvent,
    Cancel,
    Configure,
    Outcome,
    Progress,
    Ready,
    Refused,
    Sample,
    Started,
    Status,
)
from eztinker.service.clock import Clock
from eztinker.service.execution.engine_link import EngineLink
from eztinker.service.execution.operation import LiveOperations, Operation
from eztinker.types import EngineStatus

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 30.0
MAX_FAILED_STARTS = 15
"""Engines in a row that died before they were ready, over some five minutes; then what waits fails, and it goes on."""
MAX_DEATHS = 3
"""Engines that one operation may take with it before it is given up."""
STALL_CHECK_SECONDS = 1.0


class EngineDied(Exception):
    """The engine that had a training operation, or was to get it, is gone."""


class InHand(NamedTuple):
    """Numbers of operations that the engine has, or will get as soon as it starts."""

    num_samples: int
    num_training: int


class EngineProcess:
    """The one engine of this server, whichever process it is right now."""

    def __init__(
        self,
        configure: Configure,
        begin_epoch: Callable[[], Awaitable[int]],
        clock: Clock,
        live: LiveOperations,
        *,
        stall_seconds: float,
        spawn: Callable[[], Awaitable[EngineLink]] = EngineLink.spawn,
    ) -> None:
        """Prepare a supervisor; `start` starts the first engine.

        Args:
            begin_epoch: the number of the engine about to start; whatever older ones still report is refused.
            stall_seconds: an engine with work that reports nothing for this long is killed.
            spawn: starts an engine.
        """
        self.status = EngineStatus()
        self.refusal: str | None = None
        """Why no engine can start with these settings; it is never tried again."""
        self._configure = configure
        self._begin_epoch = begin_epoch
        self._clock = clock
        self._stall_seconds = stall_seconds
        self._spawn = spawn
        self._live = live
        self._pending: list[Operation] = []
        """Handed over and not answered, in that order."""
        self._watchers: dict[str, Callable[[Progress], None]] = {}
        """Watchers of streamed samples, by op_id."""
        self._in_hand: str | None = None
        """The training operation that the engine works on, or has worked on last and not ended."""
        self._link: EngineLink | None = None
        self._ready: Ready | None = None
        self._epoch = 0
        self._waiting: list[asyncio.Future[int]] = []
        self._heard_at = 0.0
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def ready(self) -> Ready | None:
        """Description of the engine by itself; None while there is none that takes commands."""
        return self._ready

    @property
    def in_hand(self) -> InHand:
        num_samples = sum(isinstance(operation.work, Sample) for operation in self._pending)
        return InHand(num_samples, len(self._pending) - num_samples)

    @property
    def epoch(self) -> int | None:
        """Epoch of the engine that takes commands now, if there is one; state in older engines is gone."""
        return None if self._ready is None else self._epoch

    def start(self) -> None:
        """Start the engine, and replace it whenever it dies, unless it refuses its settings."""
        self._supervisor = asyncio.create_task(self._supervise(), name="engine supervisor")

    async def stop(self) -> None:
        """Stop the engine and replace it no more. What is pending stays without an answer."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
        for waiting in (*self._waiting, *(operation.answer for operation in self._pending)):
            if waiting is not None:
                waiting.cancel()

    async def available(self) -> int:
        """Wait for an engine that takes commands, and return its epoch.

        Raises:
            EngineLost: it does not start.
        """
        if self._ready is not None:
            return self._epoch
        waiting: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        return await waiting

    def train(self, operation: Operation, *, epoch: int) -> asyncio.Future[Outcome]:
        """Hand a training operation to the engine of this epoch, in the order of calls.

        The future ends in the engine's answer, or raises `EngineDied`.
        """
        answer = self._take_over(operation)
        if epoch == self.epoch:
            self._send(operation)
        else:
            self._end(operation, EngineDied())
        return answer

    def sample(self, operation: Operation) -> asyncio.Future[Outcome]:
        """Hand over a sample, which waits here while no engine is ready.

        The future ends in the engine's answer, or raises `EngineLost`.
        """
        answer = self._take_over(operation)
        if self._ready is not None:
            self._send(operation)
        return answer

    def watch(self, op_id: str, watcher: Callable[[Progress], None]) -> None:
        """Tell `watcher` what a streamed sample draws, until `unwatch`; an engine that takes over begins anew."""
        assert op_id not in self._watchers
        self._watchers[op_id] = watcher

    def unwatch(self, op_id: str) -> None:
        self._watchers.pop(op_id, None)

    def is_watched(self, op_id: str) -> bool:
        return op_id in self._watchers

    def cancel(self, operation: Operation) -> None:
        """Give up a sample: in an engine it ends in `Failed`, before that in an error."""
        assert isinstance(operation.work, Sample)
        if operation not in self._pending:
            return
        if self._ready is not None and self._link is not None:
            self._link.send(Cancel(op_id=operation.op_id))
        else:
            self._end(operation, Cancelled())  # no engine has said so, and the next one may begin meanwhile

    def _take_over(self, operation: Operation) -> asyncio.Future[Outcome]:
        if operation.outcome is None:  # the server's own, which is in no log
            self._live.add(operation)
        if self._ready is not None and not self._pending:
            self._heard_at = self._clock.monotonic()  # an idle engine had nothing to say
        self._pending.append(operation)
        operation.answer = asyncio.get_running_loop().create_future()
        return operation.answer

    def _send(self, operation: Operation) -> None:
        assert self._link is not None
        assert not isinstance(operation.work, EZTinkerError)
        operation.is_sent = True
        operation.epoch = self._epoch
        self._link.send(msgspec.structs.replace(operation.work, share=operation.owner))

    def _let_go(self, operation: Operation) -> asyncio.Future[Outcome]:
        """The operation is answered, or ends here; the future to tell it with."""
        assert operation.answer is not None
        self._pending.remove(operation)
        if operation.outcome is None:
            self._live.remove(operation)
        return operation.answer

    async def _supervise(self) -> None:
        num_failed_starts = 0
        while self.refusal is None:
            try:
                was_ready = await self._live_once()
            except Exception:
                # the log refuses the number of the next epoch, or the system a new process
                log.exception("No engine can be started", extra={"event": "engine_not_started"})
                was_ready = False
            num_failed_starts = 0 if was_ready else num_failed_starts + 1
            if num_failed_starts == MAX_FAILED_STARTS:
                self._give_up_waiting()
            pause_seconds = FIRST_PAUSE_SECONDS * 2 ** min(num_failed_starts, MAX_FAILED_STARTS)
            await asyncio.sleep(min(pause_seconds, LONGEST_PAUSE_SECONDS))

    async def _live_once(self) -> bool:
        """One life of an engine, from start to death; whether it ever took commands."""
        self._epoch = await self._begin_epoch()
        link = await self._spawn()
        self._link = link
        self._heard_at = self._clock.monotonic()
        watch = asyncio.create_task(self._kill_if_stuck(link), name="stall watch")
        was_ready = False
        try:
            link.send(self._configure)
            async for event in link.events():
                self._heard_at = self._clock.monotonic()
                self._take(event)
                was_ready = was_ready or self._ready is not None
        except asyncio.CancelledError:
            await link.stop()
            raise
        except Exception:
            log.exception("The engine sent a frame that cannot be read", extra={"event": "engine_frame_unreadable"})
        finally:
            watch.cancel()
        self._bury()
        exit_code = await link.close()
        if self.refusal is None:
            log.error("The engine stopped", extra={"event": "engine_stopped", "pid": link.pid, "exit_code": exit_code})
        return was_ready

    async def _kill_if_stuck(self, link: EngineLink) -> None:
        """Kill an engine that is starting or has work, and has not been heard of for too long."""
        while True:
            await asyncio.sleep(min(STALL_CHECK_SECONDS, self._stall_seconds))
            is_busy = self._ready is None or bool(self._pending)
            if is_busy and self._clock.monotonic() - self._heard_at > self._stall_seconds:
                log.error("The engine is stuck and is killed", extra={"event": "engine_stuck", "pid": link.pid})
                link.kill()
                return

    def _take(self, event: AnyEvent) -> None:
        match event:
            case Ready():
                self._ready = event
                for waiting in self._waiting:
                    if not waiting.done():
                        waiting.set_result(self._epoch)
                self._waiting.clear()
                for operation in self._pending:
                    self._send(operation)
            case Refused():
                self.refusal = event.message
            case Status():
                self.status = event.status
            case Started():
                self._in_hand = event.op_id
            case Progress():
                if (watcher := self._watchers.get(event.op_id)) is not None:
                    watcher(event)
            case _:
                if self._in_hand == event.op_id:
                    self._in_hand = None
                operation = self._live.get(event.op_id)
                if operation is not None and operation in self._pending:
                    answer = self._let_go(operation)
                    if not answer.done():
                        answer.set_result(event)

    def _bury(self) -> None:
        """Sort what the dead engine had: samples wait for the next one, unless they were in too many deaths."""
        was_ready = self._ready is not None
        self._link = self._ready = None
        self.status = EngineStatus()
        for operation in list(self._pending):
            is_sample = isinstance(operation.work, Sample)
            # one sample of a batch cannot be told from another; of training, the engine names what it turns to
            operation.num_deaths += was_ready if is_sample else operation.op_id == self._in_hand
            operation.is_sent = False
            if not is_sample:
                self._end(operation, EngineDied())
            elif operation.num_deaths >= MAX_DEATHS:
                self._end(operation, EngineLost(f"The engine stopped {MAX_DEATHS} times while it drew this sample"))
        self._in_hand = None

    def _give_up_waiting(self) -> None:
        error = EngineLost("The engine does not start; the server's log says why")
        for operation in list(self._pending):
            self._end(operation, error)
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(error)
        self._waiting.clear()

    def _end(self, operation: Operation, error: Exception) -> None:
        answer = self._let_go(operation)
        if not answer.done():
            answer.set_exception(error)
