"""One poll for all samples of a sampling client: it says which are over, and each is then asked for by itself."""

from __future__ import annotations

import asyncio

from eztinker.errors import QueueFull
from eztinker.oplog.rows import OperationStatus, SettledOperation
from eztinker.service.execution.futures import Done, Failure
from eztinker.service.sampling.completions import Announcement
from eztinker.service.service import Service
from tests.simulation.calls import Caller, Outcome
from tests.simulation.network import ConnectionLost
from tests.simulation.records import Violation


class Announcements:
    """What a sampling session has announced. Every sample is announced once, as what a poll for it alone tells."""

    def __init__(self, caller: Caller, sampling_session_id: str) -> None:
        self._caller = caller
        self._sampling_session_id = sampling_session_id
        self._announced: dict[str, SettledOperation] = {}
        self._cursor = 0
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._fetched: set[str] = set()
        """Samples whose results the client has, and the server may drop."""
        self._listening: asyncio.Task[None] | None = None

    async def outcome(self, op_id: str) -> Outcome:
        if op_id not in self._announced:
            announced = self._waiting[op_id] = asyncio.get_running_loop().create_future()
            if self._listening is None:
                self._listening = self._caller.follow(self._listen())
            await announced
        outcome = await self._caller.outcome(op_id)
        if not _agrees(self._announced[op_id], outcome):
            raise Violation(f"{op_id} was announced as {self._announced[op_id]}, and is {outcome}")
        self._fetched.add(op_id)
        return outcome

    async def check_again(self) -> None:
        """From the beginning, as a client that has lost its place: the same must be announced, in the same order."""
        before = [(each.op_id, each.completion) for each in self._announced.values()]
        again = await self._poll(cursor=0, hold_seconds=0)
        if [(each.op_id, each.completion) for each in again.completions][: len(before)] != before:
            raise Violation(f"{self._sampling_session_id} announced other samples than before")

    async def _listen(self) -> None:
        while self._waiting:
            news = await self._poll(cursor=self._cursor, hold_seconds=30 * self._caller.random.uniform(0, 1))
            for completion in news.completions:
                self._hear(completion)
            if news.cursor != self._cursor:
                raise Violation(f"{self._sampling_session_id} skips announcements: {news}")
        self._listening = None

    def _hear(self, completion: SettledOperation) -> None:
        if completion.op_id in self._announced or completion.completion <= self._cursor:
            raise Violation(f"{completion} was announced out of order")
        self._cursor = completion.completion
        self._announced[completion.op_id] = completion
        if (waiting := self._waiting.pop(completion.op_id, None)) is not None:
            waiting.set_result(None)

    async def _poll(self, *, cursor: int, hold_seconds: float) -> Announcement:
        caller, fetched = self._caller, sorted(self._fetched)

        async def poll(service: Service) -> Announcement:
            with service.polls.held(caller.owner):
                return await service.completions.announced(
                    caller.owner,
                    self._sampling_session_id,
                    0,
                    cursor=cursor,
                    fetched=fetched,
                    hold_seconds=hold_seconds,
                )

        while True:
            try:
                news = await caller.network.call(poll)
            except (ConnectionLost, QueueFull):
                await asyncio.sleep(caller.random.uniform(0.5, 5))
                continue
            self._fetched.difference_update(fetched)
            return news


def _agrees(announced: SettledOperation, outcome: Outcome) -> bool:
    match outcome:
        case Done():
            return announced.has_result and announced.num_bytes == len(outcome.body)
        case Failure():
            return announced.status is OperationStatus.FAILED
        case None:
            return announced.status is OperationStatus.LOST
