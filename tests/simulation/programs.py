"""What a client does with one training run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import orjson

from eztinker.errors import InvalidInput
from eztinker.protocol.training_codec import ForwardBackwardRequest
from eztinker.service.execution.plans import Done
from eztinker.service.service import Service
from eztinker.service.training.training import SaveRequest
from eztinker.types import AdamParams, CheckpointKind, Datum
from tests.simulation.calls import Asked, Caller, Outcome
from tests.simulation.habits import Habit, Habits
from tests.simulation.records import Place
from tests.simulation.samplers import Sampler
from tests.simulation.shelf import Begin, Shelf
from tests.simulation.states import POISON_TOKEN, REFUSED_TOKEN, Bad, Deed, Pass, Save, Source, Step


class Program:
    """The calls on one run, each submitted when all of the one before have been taken."""

    def __init__(self, caller: Caller, lane: str, habits: Habits, begin: Begin, *, may_poison: bool) -> None:
        """Args: begin: begins another run from a checkpoint."""
        self._caller = caller
        self._lane = lane
        self._habits = habits
        self._random = caller.random
        self._may_poison = may_poison
        self._next = 1
        self._shelf = Shelf(caller, lane, habits, self._save_as, begin)
        self._inflight = Source(f"inflight saves of {lane}", -1)
        self._inflight_samplers: list[Sampler] = []

    async def run(self) -> None:
        calls = [self._pass, self._step, self._save, self._save_for_sampler, self._load, self._skip, self._bad]
        weights = [8, 6, 2, 1.5, 1.5, 0.7, 0.7]
        for habit, call in {
            Habit.INFLIGHT: self._save_inflight,
            Habit.ANNOUNCED: self._save_for_sampler,
            Habit.OVERWRITE: self._shelf.overwrite,
            Habit.LIFETIME: self._shelf.save_for_a_while,
            Habit.COPY: self._shelf.copy,
        }.items():
            if habit in self._habits:
                calls.append(call)
                weights.append(4)
        for _ in range(self._random.randint(4, 9)):
            (call,) = self._random.choices(calls, weights)
            asked = await call()
            if asked and self._random.random() < 0.2:
                await asyncio.gather(*asked)
            await asyncio.sleep(self._random.choice((0, 0, 0, 0.01, 1, 5)))

    def _take(self) -> int:
        self._next += 1
        return self._next - 1

    async def _ask(self, deed: Deed, send: Callable[[Service, int], Awaitable[str]]) -> asyncio.Task[Outcome]:
        seq_id = self._take()
        return await self._caller.ask(Place(self._lane, seq_id), deed, lambda s: send(s, seq_id))

    async def _pass(self) -> Asked:
        """The chunks of one call: all but the first at once, and the first when they have been taken."""
        chunks = [(self._take(), self._new_pass()) for _ in range(self._random.choice((1, 1, 1, 2, 3)))]
        first, *others = chunks
        asked = await asyncio.gather(*(self._ask_pass(*chunk) for chunk in others))
        if self._random.random() < 0.03:
            return asked  # the client fails on its own first chunk: a gap for ever
        return [*asked, await self._ask_pass(*first)]

    def _new_pass(self) -> Pass:
        draw = self._random.random()
        first = REFUSED_TOKEN if draw < 0.05 else self._random.randrange(3, 100)
        if self._may_poison and draw > 0.95:
            first = POISON_TOKEN
        return Pass((first, self._random.randrange(3, 9)), is_forward_only=self._random.random() < 0.15)

    async def _ask_pass(self, seq_id: int, deed: Pass) -> asyncio.Task[Outcome]:
        tokens = np.array(deed.tokens)
        inputs = {"target_tokens": tokens, "weights": np.ones(len(tokens), np.float32)}
        request = ForwardBackwardRequest(
            model_id=self._lane,
            seq_id=seq_id,
            data=[Datum(tokens=tokens, loss_fn_inputs=inputs)],
            loss_fn="cross_entropy",
            forward_only=deed.is_forward_only,
        )
        owner = self._caller.owner
        return await self._caller.ask(
            Place(self._lane, seq_id), deed, lambda s: s.training.forward_backward(owner, request)
        )

    async def _step(self) -> Asked:
        deed = Step(0.0 if self._random.random() < 0.1 else 0.1)
        adam = AdamParams(learning_rate=deed.learning_rate)
        owner = self._caller.owner
        return [await self._ask(deed, lambda s, seq_id: s.training.optim_step(owner, self._lane, seq_id, adam))]

    async def _save(self) -> Asked:
        return await self._shelf.save()

    async def _save_for_sampler(self) -> Asked:
        saving, source = await self._save_as(SaveRequest(kind=CheckpointKind.SAMPLER, name=None), None)
        if (sampler := await self._sampler_of(saving)) is not None:
            self._caller.follow(sampler.draw(lambda: source))
        return []

    async def _save_inflight(self) -> Asked:
        """Training goes on; when it is saved, this sampler and those of earlier such saves draw from it or newer."""
        request = SaveRequest(kind=CheckpointKind.SAMPLER, name=None, is_inflight=True)
        saving, source = await self._save_as(request, self._inflight.path)
        self._caller.follow(self._draw_inflight(saving, source))
        return [saving]

    async def _draw_inflight(self, saving: asyncio.Task[Outcome], source: Source) -> None:
        if (sampler := await self._sampler_of(saving)) is not None:
            self._inflight = max(self._inflight, source)
            earlier = self._random.choice([*self._inflight_samplers, sampler])
            self._inflight_samplers.append(sampler)
            await sampler.draw(lambda: self._inflight)
            await earlier.draw(lambda: self._inflight)

    async def _sampler_of(self, saving: asyncio.Task[Outcome]) -> Sampler | None:
        outcome = await saving
        if not isinstance(outcome, Done):
            return None
        return Sampler(self._caller, self._habits, orjson.loads(outcome.body)["sampling_session_id"])

    async def _save_as(self, request: SaveRequest, path: str | None) -> tuple[asyncio.Task[Outcome], Source]:
        """The save under way, and what can be read where it goes: to a path, or to a sampler of its own."""
        place = Place(self._lane, self._next)
        source = self._caller.records.saving(path or f"save {place}", place)
        owner, deed = self._caller.owner, Save(request.kind, request.name)
        saving = await self._ask(deed, lambda s, seq_id: s.training.save(owner, self._lane, seq_id, request))
        return saving, source

    async def _load(self) -> Asked:
        deed = self._shelf.to_load()
        if deed is None:
            return await self._pass()
        owner, path = self._caller.owner, deed.source.path
        loading = await self._ask(
            deed,
            lambda s, seq_id: s.training.load(
                owner, self._lane, seq_id, path, with_optimizer=deed.with_optimizer, lender=None
            ),
        )
        if self._random.random() < 0.6 and isinstance(await loading, Done):
            await self._shelf.delete(path)
        return [loading]

    async def _skip(self) -> Asked:
        self._take()
        return []

    async def _bad(self) -> Asked:
        owner, error = self._caller.owner, InvalidInput("bad")
        return [await self._ask(Bad(), lambda s, seq_id: s.training.optim_step(owner, self._lane, seq_id, error))]
