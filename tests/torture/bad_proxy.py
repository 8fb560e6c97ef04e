"""A bad network between clients and a server: answers get lost, requests arrive twice, or late."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator

from tests.torture.raw_http import Connections, Message, read_message

DROPPED, DUPLICATED, DELAYED = 0.30, 0.10, 0.05
"""Shares of all requests. Every request reaches the server; of one that is dropped the client hears nothing."""
MAX_DELAY_SECONDS = 0.3
NOT_READY = 408


class BadProxy:
    """Passes requests on to one server, and treats them as a seeded generator says.

    Half of the dropped ones lose their connection before the server has answered, so that the repeat meets the first
    one in hand; the others after it. A duplicate arrives beside the original, over a connection of its own.
    """

    def __init__(self, server_url: str, seed: int) -> None:
        self._server = Connections(server_url)
        self._random = random.Random(seed)
        self._connections: set[asyncio.Task[None]] = set()
        self.url = ""
        self.treated: Counter[str] = Counter()
        self.answers: defaultdict[tuple[bytes, bytes], set[bytes]] = defaultdict(set)
        """All that the server has ever answered to a request, by its first line and body, whoever heard it."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[BadProxy]:
        listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            listener.close()
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            self._server.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what comes over one connection, until one answer on it is lost or the client closes it."""
        is_lost = False
        try:
            while not is_lost:
                is_lost = await self._pass_on(await read_message(reader), writer)
        except (EOFError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.transport.abort()

    async def _pass_on(self, request: Message, writer: asyncio.StreamWriter) -> bool:
        """Whether the client lost its connection over it."""
        is_dropped, is_early = self._happens(DROPPED, "dropped"), self._random.random() < 0.5
        num_copies = 1 + self._happens(DUPLICATED, "duplicated")
        if self._happens(DELAYED, "delayed"):
            await asyncio.sleep(self._random.uniform(0, MAX_DELAY_SECONDS))
        if is_dropped and is_early:
            writer.transport.abort()
        answers = await asyncio.gather(*(self._ask(request) for _ in range(num_copies)))
        if not is_dropped:
            writer.write(self._random.choice(answers).raw)
        return is_dropped

    async def _ask(self, request: Message) -> Message:
        answer = await self._server.exchange(request)
        self.treated["answered"] += 1
        if answer.status != NOT_READY:
            self.answers[request.first_line, request.body].add(answer.first_line + b"\n" + answer.body)
        return answer

    def _happens(self, share: float, what: str) -> bool:
        happens = self._random.random() < share
        self.treated[what] += happens
        return happens
