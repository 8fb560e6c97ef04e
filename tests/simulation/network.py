"""Between the clients and whichever server process there is: requests and answers are late, lost, or sent twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import Any, TypeVar

from eztinker.service.service import Service
from tests.simulation.event_loop import Life, VirtualLoop
from tests.simulation.records import Violation

T = TypeVar("T")

ANSWER_SECONDS = 60.0
"""In which a living server answers anything: polls are held for less, and commits take less."""


class ConnectionLost(Exception):
    """No answer; the request may have come through or not."""


class Network:
    def __init__(self, loop: VirtualLoop, random: Random) -> None:
        self._loop = loop
        self._random = random
        self._service: Service | None = None
        self._life: Life | None = None
        self._open: dict[asyncio.Future[Any], None] = {}
        """Requests that the server works on."""
        self.loss = 0.0
        self.duplicates = 0.0

    @property
    def is_connected(self) -> bool:
        """Whether a server listens."""
        return self._service is not None

    def connect(self, service: Service, life: Life) -> None:
        """The server listens."""
        self._service, self._life = service, life

    def refuse(self) -> None:
        """The server takes no new connection."""
        self._service = None

    def cut(self) -> None:
        """The server is gone."""
        self._service = self._life = None
        for answer in list(self._open):
            if not answer.done():
                answer.set_exception(ConnectionLost())
        self._open.clear()

    async def call(self, request: Callable[[Service], Awaitable[T]]) -> T:
        """What the server answers.

        Raises:
            ConnectionLost: it did not, or the answer was lost.
        """
        await self._travel()
        if self._random.random() < self.duplicates:
            self._send(request).add_done_callback(_forget)
            await self._travel(loses=False)
        answer = self._send(request)
        try:
            result = await asyncio.wait_for(answer, ANSWER_SECONDS)
        except TimeoutError:
            raise Violation("a request got no answer") from None
        await self._travel()
        return result

    def _send(self, request: Callable[[Service], Awaitable[T]]) -> asyncio.Future[T]:
        if self._service is None or self._life is None:
            raise ConnectionLost
        answer: asyncio.Future[T] = self._loop.create_future()
        self._open[answer] = None
        handling = self._loop.create_task(_coroutine(request, self._service), context=self._life.context)
        handling.add_done_callback(partial(self._answered, answer))
        return answer

    def _answered(self, answer: asyncio.Future[T], handling: asyncio.Task[T]) -> None:
        self._open.pop(answer, None)
        error = None if handling.cancelled() else handling.exception()
        if answer.done():
            return
        if handling.cancelled():
            answer.set_exception(ConnectionLost())
        elif error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(handling.result())

    async def _travel(self, *, loses: bool = True) -> None:
        await asyncio.sleep(self._random.choice((0.0, 0.001, 0.03, 0.3)))
        if loses and self._random.random() < self.loss:
            raise ConnectionLost


async def _coroutine(request: Callable[[Service], Awaitable[T]], service: Service) -> T:
    return await request(service)


def _forget(answer: asyncio.Future[Any]) -> None:
    if not answer.cancelled():
        answer.exception()
