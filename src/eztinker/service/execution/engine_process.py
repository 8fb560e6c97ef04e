"""The engine, kept alive: commands go in, each comes back as one outcome, and a dead or stuck engine is replaced.

What happens to a command when the engine dies depends on what it does. A sample reads only what lies on disk, so it is
sent again to the next engine. A training command changes state that died with the engine, so it ends in `EngineDied`,
and `RunFeed` brings the state back before it sends the command again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

from eztinker.errors import Cancelled, EngineLost
from eztinker.protocol.frames import (
    AnyEvent,
    Cancel,
    Configure,
    Outcome,
    Progress,
    Ready,
    Sample,
    Started,
    Status,
    Submit,
    TrainingCommand,
)
from eztinker.service.clock import Clock
from eztinker.service.execution.engine_link import EngineLink
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
    """The engine that had a training command, or was to get it, is gone; `in_hand` tells whether it died over it."""

    def __init__(self, *, in_hand: bool) -> None:
        super().__init__()
        self.in_hand = in_hand


class Answer(NamedTuple):
    """How a command ended, and the epoch of the engine that says so."""

    event: Outcome
    epoch: int


class InHand(NamedTuple):
    """How many commands the engine has, or will get as soon as it starts."""

    num_samples: int
    num_training: int


@dataclass(slots=True)
class _Pending:
    command: TrainingCommand | Sample
    owner: str
    outcome: asyncio.Future[Answer]
    num_deaths: int = 0
    """Engines that died with this sample in their batch."""


class EngineProcess:
    """The one engine of this server, whichever process it is right now."""

    def __init__(
        self,
        configure: Configure,
        begin_epoch: Callable[[], Awaitable[int]],
        clock: Clock,
        *,
        stall_seconds: float,
        spawn: Callable[[], Awaitable[EngineLink]] = EngineLink.spawn,
    ) -> None:
        """
        Args:
            begin_epoch: the number of the engine about to start; whatever older ones still report is refused.
            stall_seconds: an engine with work that reports nothing for this long is killed.
            spawn: starts an engine.
        """
        self.status = EngineStatus()
        self._configure = configure
        self._begin_epoch = begin_epoch
        self._clock = clock
        self._stall_seconds = stall_seconds
        self._spawn = spawn
        self._pending: dict[str, _Pending] = {}
        self._watchers: dict[str, Callable[[Progress], None]] = {}
        """By id: who is told what a streamed sample has drawn."""
        self._in_hand: str | None = None
        """The training command that the engine works on, or has worked on last and not ended."""
        self._link: EngineLink | None = None
        self._ready: Ready | None = None
        self._epoch = 0
        self._waiting: list[asyncio.Future[int]] = []
        self._heard_at = 0.0
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def ready(self) -> Ready | None:
        """What the engine said of itself; None while there is none that takes commands."""
        return self._ready

    @property
    def in_hand(self) -> InHand:
        num_samples = sum(isinstance(pending.command, Sample) for pending in self._pending.values())
        return InHand(num_samples, len(self._pending) - num_samples)

    @property
    def epoch(self) -> int | None:
        """That of the engine which takes commands now, if there is one; state in older ones is gone."""
        return None if self._ready is None else self._epoch

    def start(self) -> None:
        self._supervisor = asyncio.create_task(self._supervise(), name="engine supervisor")

    async def stop(self) -> None:
        """Stop the engine and replace it no more. What is pending stays without an answer."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
        for waiting in (*self._waiting, *(pending.outcome for pending in self._pending.values())):
            waiting.cancel()

    async def available(self) -> int:
        """The epoch of the engine, as soon as there is one that takes commands.

        Raises:
            EngineLost: it does not start.
        """
        if self._ready is not None:
            return self._epoch
        waiting: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        return await waiting

    def train(self, command: TrainingCommand, *, owner: str, epoch: int) -> asyncio.Future[Answer]:
        """Hand a command to the engine of this epoch, in the order of calls, as work of `owner`.

        The future ends in the answer, or raises `EngineDied`.
        """
        pending = _Pending(command, owner, asyncio.get_running_loop().create_future())
        if epoch != self.epoch:
            pending.outcome.set_exception(EngineDied(in_hand=False))
        else:
            self._send(command.op_id, pending)
        return pending.outcome

    def sample(self, command: Sample, *, owner: str) -> asyncio.Future[Answer]:
        """Hand over a sample as work of `owner`; it waits here while no engine is ready.

        The future ends in the answer, or raises `EngineLost`.
        """
        pending = _Pending(command, owner, asyncio.get_running_loop().create_future())
        if self._ready is None:
            self._pending[command.op_id] = pending
        else:
            self._send(command.op_id, pending)
        return pending.outcome

    def watch(self, op_id: str, watcher: Callable[[Progress], None]) -> None:
        """Tell `watcher` what a streamed sample draws, until `unwatch`; an engine that takes over begins anew."""
        assert op_id not in self._watchers
        self._watchers[op_id] = watcher

    def unwatch(self, op_id: str) -> None:
        self._watchers.pop(op_id, None)

    def is_watched(self, op_id: str) -> bool:
        return op_id in self._watchers

    def cancel(self, op_id: str) -> None:
        """Give up a sample: in an engine it ends in `Failed`, before that in an error. Anything else is left alone."""
        pending = self._pending.get(op_id)
        if pending is None or not isinstance(pending.command, Sample):
            return
        if self._ready is not None and self._link is not None:
            self._link.send(Cancel(op_id=op_id))
        else:
            self._end(op_id, Cancelled())  # of no epoch: no engine has said so, and the next one may begin meanwhile

    def _send(self, op_id: str, pending: _Pending) -> None:
        assert self._link is not None
        if not self._pending:
            self._heard_at = self._clock.monotonic()  # an idle engine had nothing to say
        self._pending[op_id] = pending
        self._link.send(Submit(share=pending.owner, work=pending.command))

    async def _supervise(self) -> None:
        num_failed_starts = 0
        while True:
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
                for op_id, pending in list(self._pending.items()):
                    self._send(op_id, pending)
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
                pending = self._pending.pop(event.op_id, None)
                if pending is not None and not pending.outcome.done():
                    pending.outcome.set_result(Answer(event, self._epoch))

    def _bury(self) -> None:
        """Sort what the dead engine had: samples wait for the next one, unless they were in too many deaths."""
        was_ready = self._ready is not None
        self._link = self._ready = None
        self.status = EngineStatus()
        for op_id, pending in list(self._pending.items()):
            if not isinstance(pending.command, Sample):
                self._end(op_id, EngineDied(in_hand=op_id == self._in_hand))
            elif was_ready:
                pending.num_deaths += 1
                if pending.num_deaths == MAX_DEATHS:
                    self._end(op_id, EngineLost(f"The engine stopped {MAX_DEATHS} times while it drew this sample"))
        self._in_hand = None

    def _give_up_waiting(self) -> None:
        error = EngineLost("The engine does not start; the server's log says why")
        for op_id in list(self._pending):
            self._end(op_id, error)
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(error)
        self._waiting.clear()

    def _end(self, op_id: str, error: Exception) -> None:
        pending = self._pending.pop(op_id)
        if not pending.outcome.done():
            pending.outcome.set_exception(error)
