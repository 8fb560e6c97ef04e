"""The engine, kept alive: commands go in, each comes back as one event, and a dead engine is replaced.

What happens to a command when the engine dies depends on what it does. A sample reads only what lies on disk, so it is
sent once more to the next engine. A training command changed state that died with the engine, so it ends in
`EngineLost`; what becomes of its run is decided in `recovery`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from eztinker.errors import Cancelled, EngineLost
from eztinker.protocol.frames import AnyEvent, Cancel, Configure, Failed, Ready, Sample, Status, TrainingCommand
from eztinker.service.engine_link import ENGINE_ARGV, EngineLink
from eztinker.types import EngineStatus

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 30.0
MAX_FAILED_STARTS = 4
"""Engines in a row that died before they were ready; then waiting commands fail, and starting goes on."""


@dataclass(slots=True)
class _Pending:
    command: TrainingCommand | Sample
    outcome: asyncio.Future[AnyEvent]
    is_sent: bool = False
    num_deaths: int = 0
    """Engines that died with this command in hand."""


class EngineProcess:
    """The one engine of this server, whichever process it is right now."""

    def __init__(self, configure: Configure, *, argv: Sequence[str] = ENGINE_ARGV) -> None:
        self.status = EngineStatus()
        self.epoch = 0
        """How many engines that held state have died; state of an older epoch is gone."""
        self._configure = configure
        self._argv = argv
        self._pending: dict[str, _Pending] = {}
        self._link: EngineLink | None = None
        self._ready: Ready | None = None
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def ready(self) -> Ready | None:
        """What the engine said of itself; None while there is none that takes commands."""
        return self._ready

    def start(self) -> None:
        self._supervisor = asyncio.create_task(self._supervise(), name="engine supervisor")

    async def stop(self) -> None:
        """Stop the engine and replace it no more. What is pending stays without an answer."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
        for pending in self._pending.values():
            pending.outcome.cancel()

    def submit(self, command: TrainingCommand | Sample) -> asyncio.Future[AnyEvent]:
        """Hand over a command, in the order of calls; it waits here while no engine is ready.

        The future ends in the event that answers the command, `Failed` included, or raises `EngineLost`.
        """
        pending = _Pending(command, asyncio.get_running_loop().create_future())
        self._pending[command.op_id] = pending
        if self._ready is not None:
            self._send(pending)
        return pending.outcome

    def cancel(self, op_id: str) -> None:
        """Give up a sample, waiting or running; it then ends in `Failed`. Anything else is left alone."""
        pending = self._pending.get(op_id)
        if pending is None or not isinstance(pending.command, Sample):
            return
        if pending.is_sent and self._link is not None:
            self._link.send(Cancel(op_id=op_id))
        else:
            self._take(Failed.of(op_id, Cancelled()))

    def _send(self, pending: _Pending) -> None:
        assert self._link is not None
        pending.is_sent = True
        self._link.send(pending.command)

    async def _supervise(self) -> None:
        num_failed_starts = 0
        while True:
            was_ready = await self._live_once()
            num_failed_starts = 0 if was_ready else num_failed_starts + 1
            if num_failed_starts == MAX_FAILED_STARTS:
                self._give_up_waiting()
            pause_seconds = min(FIRST_PAUSE_SECONDS * 2**num_failed_starts, LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(pause_seconds)

    async def _live_once(self) -> bool:
        """One life of an engine, from start to death; whether it ever took commands."""
        link = await EngineLink.spawn(self._argv)
        self._link = link
        was_ready = False
        try:
            link.send(self._configure)
            async for event in link.events():
                self._take(event)
                was_ready = was_ready or self._ready is not None
        except asyncio.CancelledError:
            await link.stop()
            raise
        except Exception:
            log.exception("The engine sent a frame that cannot be read", extra={"event": "engine_frame_unreadable"})
        self._bury(was_ready)
        exit_code = await link.close()
        log.error("The engine stopped", extra={"event": "engine_stopped", "pid": link.pid, "exit_code": exit_code})
        return was_ready

    def _take(self, event: AnyEvent) -> None:
        match event:
            case Ready():
                self._ready = event
                for pending in self._pending.values():
                    self._send(pending)
            case Status():
                self.status = event.status
            case _:
                pending = self._pending.pop(event.op_id, None)
                if pending is not None and not pending.outcome.done():
                    pending.outcome.set_result(event)

    def _bury(self, was_ready: bool) -> None:
        """Sort what the dead engine had in hand: samples wait for the next one, once; the rest is lost."""
        self._link = self._ready = None
        self.status = EngineStatus()
        self.epoch += was_ready
        for op_id, pending in list(self._pending.items()):
            if not pending.is_sent:
                continue
            pending.is_sent = False
            pending.num_deaths += 1
            if not isinstance(pending.command, Sample) or pending.num_deaths > 1:
                self._lose(op_id, "The engine stopped while it worked on this operation")

    def _give_up_waiting(self) -> None:
        for op_id in list(self._pending):
            self._lose(op_id, "The engine does not start; the server's log says why")

    def _lose(self, op_id: str, message: str) -> None:
        pending = self._pending.pop(op_id)
        if not pending.outcome.done():
            pending.outcome.set_exception(EngineLost(message))
