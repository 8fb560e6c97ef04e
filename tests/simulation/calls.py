"""How a client of the official SDK's rules calls the server: retries, long polls, and what no good request is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from random import Random
from typing import Any, TypeVar

from eztinker.errors import CheckpointDamaged, NotFound, QueueFull, ResultGone, ServerError, SessionEnded, UserError
from eztinker.service.execution.futures import Done, Failure
from eztinker.service.service import Service
from tests.simulation.network import ConnectionLost, Network
from tests.simulation.records import Place, Records, Violation
from tests.simulation.states import Deed

T = TypeVar("T")
Outcome = Done | Failure | None
"""None if the operation has to be asked for again."""
Asked = list["asyncio.Task[Outcome]"]

SUBMIT_SECONDS = 300.0
"""For how long the SDK repeats a submission."""


class GaveUp(Exception):
    """The SDK raises: a submission was refused, or got no answer for five minutes."""


class Caller:
    """The requests of one program of one owner, in one session."""

    def __init__(self, owner: str, network: Network, random: Random, records: Records) -> None:
        self.owner = owner
        self.network = network
        self.random = random
        self.records = records
        self.session_id = ""
        self.num_models = 0
        """Runs and copies, which the client numbers together."""
        self._num_samplers = 0
        self._loop = asyncio.get_running_loop()
        self._following: list[asyncio.Task[Any]] = []

    def new_lane(self) -> tuple[str, int]:
        """The id of the next run, and its number."""
        number = self.num_models
        self.num_models += 1
        return f"{self.session_id}:train:{number}", number

    def new_sampler_number(self) -> int:
        self._num_samplers += 1
        return self._num_samplers - 1

    async def ask(self, place: Place, deed: Deed, send: Callable[[Service], Awaitable[str]]) -> asyncio.Task[Outcome]:
        """Submit an operation and follow it."""
        self.records.asked[place] = deed
        op_id = await self.submit(send)
        self.records.acknowledged(place, op_id)
        return self.follow(self.outcome(op_id))

    def follow(self, waiting: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """The program is not over before this is."""
        task = asyncio.create_task(waiting)
        self._following.append(task)
        return task

    async def finish(self) -> None:
        while self._following:
            following, self._following = self._following, []
            await asyncio.gather(*following)

    async def submit(
        self, send: Callable[[Service], Awaitable[T]], *, may_refuse: tuple[type[UserError], ...] = ()
    ) -> T:
        """The answer, however often it has to be asked for; raises one of `may_refuse` if that is the answer."""
        deadline = self._loop.time() + SUBMIT_SECONDS
        pause = 0.5
        while True:
            try:
                return await self.network.call(send)
            except CheckpointDamaged as error:
                raise Violation(f"a checkpoint is damaged: {error}") from error
            except (ConnectionLost, ServerError):
                if self._loop.time() > deadline:
                    raise GaveUp from None
            except may_refuse:
                raise
            except SessionEnded:
                raise Violation("a session was ended though its client is alive") from None
            except UserError as error:
                raise Violation(f"a good request was refused: {error}") from error
            await asyncio.sleep(pause * self.random.uniform(0.5, 1))
            pause = min(2 * pause, 30)

    async def outcome(self, op_id: str) -> Outcome:
        """What the operation came to."""
        while True:
            poll = partial(_poll, owner=self.owner, op_id=op_id, hold_seconds=30 * self.random.uniform(2 / 3, 1))
            try:
                outcome = await self.network.call(poll)
            except (ConnectionLost, QueueFull):
                await asyncio.sleep(self.random.uniform(0.5, 5))
                continue
            except ResultGone:
                if op_id in self.records.samples:
                    return None
                raise Violation(f"the result of {op_id} is gone before its client had it") from None
            except NotFound:
                raise Violation(f"{op_id} was acknowledged and is not known") from None
            if outcome is not None:
                self.records.told(op_id, outcome)
                if self.random.random() < 0.9 or op_id in self.records.samples:
                    return outcome
                await asyncio.sleep(self.random.uniform(0, 30))  # and once more: it must still be the same


async def _poll(service: Service, *, owner: str, op_id: str, hold_seconds: float) -> Outcome:
    with service.polls.held(owner):
        return await service.futures.outcome(owner, op_id, hold_seconds=hold_seconds)
