"""Sampling clients: samples of what was saved, asked for again when a server died with them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import numpy as np

from eztinker.errors import CheckpointNotFound
from eztinker.protocol.sampling_codec import SamplingParamsBody, WireSampleRequest
from eztinker.service.service import Service
from tests.simulation.announcements import Announcements
from tests.simulation.calls import Caller, Outcome
from tests.simulation.habits import Habit, Habits
from tests.simulation.records import Place, SampleAsked, Violation
from tests.simulation.states import Bad, Source


class Sampler:
    """One sampling session, and how its client draws from it."""

    def __init__(self, caller: Caller, habits: Habits, sampling_session_id: str) -> None:
        self._caller = caller
        self._sampling_session_id = sampling_session_id
        self._numbers: Iterator[int] = iter(range(1000))
        self._announcements = Announcements(caller, sampling_session_id) if Habit.ANNOUNCED in habits else None

    async def draw(self, source: Callable[[], Source], *, may_be_gone: bool = False) -> None:
        """Some samples at once.

        Args:
            source: what is sampled from when it is asked.
            may_be_gone: whether the server may say that it is not there any more.
        """
        drawing = [self._draw(source, may_be_gone) for _ in range(self._caller.random.randint(1, 3))]
        await asyncio.gather(*drawing)
        if self._announcements is not None:
            await self._announcements.check_again()

    async def _draw(self, source: Callable[[], Source], may_be_gone: bool) -> None:
        caller, records = self._caller, self._caller.records
        prompt = (caller.random.randrange(3, 100),)
        outcome = None
        while outcome is None:
            wire = WireSampleRequest(
                sampling_session_id=self._sampling_session_id,
                seq_id=next(self._numbers),
                prompt=np.array(prompt),
                num_samples=caller.random.randint(1, 2),
                params=SamplingParamsBody(max_tokens=1),
            )
            place = Place(self._sampling_session_id, wire.seq_id)
            records.asked[place] = Bad()
            asked = SampleAsked(source(), prompt)
            try:
                future = await caller.submit(
                    lambda s, wire=wire: s.sampling.sample(caller.owner, wire),
                    may_refuse=(CheckpointNotFound,) if may_be_gone else (),
                )
            except CheckpointNotFound:
                return
            records.acknowledged(place, future.op_id)
            records.samples[future.op_id] = asked
            if caller.random.random() < 0.1:
                asyncio.create_task(self._cancel(future.op_id)).add_done_callback(_ignore)
            outcome = await self._outcome(future.op_id)
            if outcome is None:
                records.abandoned.add(future.op_id)

    async def _outcome(self, op_id: str) -> Outcome:
        return await (self._caller if self._announcements is None else self._announcements).outcome(op_id)

    async def _cancel(self, op_id: str) -> None:
        async def cancel(service: Service) -> None:
            service.sampling.cancel(self._caller.owner, op_id)

        await self._caller.network.call(cancel)


def _ignore(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and isinstance(error := task.exception(), Violation):
        raise error
