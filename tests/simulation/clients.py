"""Clients that keep the rules of the official SDK: numbers in order, the first chunk last, retries, heartbeats."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import TypeVar

import numpy as np
import orjson

from eztinker.errors import (
    InvalidInput,
    NotFound,
    QueueFull,
    ResultGone,
    ServerError,
    SessionEnded,
    UserError,
)
from eztinker.protocol.sampling_codec import SamplingParamsBody, WireSampleRequest
from eztinker.protocol.training_codec import ForwardBackwardRequest, TrainingBatch
from eztinker.service.operations import Done, Failure
from eztinker.service.service import Service
from eztinker.service.sessions import SessionRequest
from eztinker.service.training import SaveRequest
from eztinker.service.training_runs import LoraRequest, NewRun
from eztinker.types import AdamParams, CheckpointKind, Datum
from tests.simulation.invariants import Place, Records, SampleAsked, Violation
from tests.simulation.network import ConnectionLost, Network
from tests.simulation.states import POISON_TOKEN, REFUSED_TOKEN, Bad, Create, Deed, Load, Pass, Save, Step

T = TypeVar("T")

SUBMIT_SECONDS = 300.0
"""For how long the SDK repeats a submission."""
HEARTBEAT_SECONDS = 6.0


class GaveUp(Exception):
    """The SDK raises: a submission was refused, or got no answer for five minutes."""


class Client:
    """One program of one owner: some runs, and samples from what they save."""

    def __init__(self, owner: str, network: Network, random: Random, records: Records, *, poison: bool) -> None:
        self._owner = owner
        self._network = network
        self._random = random
        self._records = records
        self._may_poison = poison
        self._loop = asyncio.get_running_loop()
        self._num_models = 0
        self._following: list[asyncio.Task[Done | Failure | None]] = []
        self._session_id = ""

    async def run(self, *, num_runs: int, says_goodbye: bool) -> None:
        request = SessionRequest(tags=[], user_metadata={}, sdk_version="", project_id=None, display_name=None)
        key = f"{self._owner} session"
        session = await self._submit(lambda s: s.sessions.create(self._owner, request, idempotency_key=key))
        self._session_id = session.session_id
        beating = asyncio.create_task(self._heartbeat())
        try:
            await asyncio.gather(*(self._train() for _ in range(num_runs)))
            while self._following:
                following, self._following = self._following, []
                await asyncio.gather(*following)
        except GaveUp:
            pass
        finally:
            beating.cancel()
        if says_goodbye:
            with contextlib.suppress(GaveUp):
                await self._submit(lambda s: _finish(s, self._owner, session.session_id))

    # --- training ---

    async def _train(self, source: str | None = None) -> None:
        lane = f"{self._session_id}:train:{self._num_models}"
        number = self._num_models
        self._num_models += 1
        new = NewRun(session_id=self._session_id, model_seq_id=number, user_metadata=None)
        place = Place(lane, 0)
        if source is None:
            deed: Deed = Create(self._random.randrange(1000))
            lora = LoraRequest(rank=1, seed=deed.seed, train_attn=True, train_mlp=True, train_unembed=True)
            begin = await self._ask(
                place,
                deed,
                lambda s: s.runs.create(self._owner, new, base_model="tiny", lora=lora, optimizer_family=None),
            )
        else:
            deed = Load(source, self._random.random() < 0.7)
            with_optimizer = deed.with_optimizer
            begin = await self._ask(
                place,
                deed,
                lambda s: s.runs.create_from_checkpoint(
                    self._owner,
                    new,
                    path=source,
                    with_optimizer=with_optimizer,
                    base_model=None,
                    optimizer_family=None,
                    lender=None,
                ),
            )
        if not isinstance(await begin, Done):
            return
        await _Program(self, lane).run()

    async def _ask(
        self, place: Place, deed: Deed, send: Callable[[Service], Awaitable[str]]
    ) -> asyncio.Task[Done | Failure | None]:
        """Submit an operation and follow it."""
        self._records.asked[place] = deed

        op_id = await self._submit(send)
        self._records.promised(place, op_id)
        return self._follow(op_id)

    def _follow(self, op_id: str) -> asyncio.Task[Done | Failure | None]:
        task = asyncio.create_task(self._outcome(op_id))
        self._following.append(task)
        return task

    # --- requests ---

    async def _submit(self, send: Callable[[Service], Awaitable[T]]) -> T:
        return await self._call_until(send, self._loop.time() + SUBMIT_SECONDS)

    async def _call_until(self, send: Callable[[Service], Awaitable[T]], deadline: float) -> T:
        pause = 0.5
        while True:
            try:
                return await self._network.call(send)
            except (ConnectionLost, ServerError):
                if self._loop.time() > deadline:
                    raise GaveUp from None
            except SessionEnded:
                raise Violation("a session was ended though its client is alive") from None
            except UserError as error:
                raise Violation(f"a good request was refused: {error}") from error
            await asyncio.sleep(pause * self._random.uniform(0.5, 1))
            pause = min(2 * pause, 30)

    async def _outcome(self, op_id: str) -> Done | Failure | None:
        """What the operation came to; None if it has to be asked for again."""
        while True:
            poll = partial(_poll, owner=self._owner, op_id=op_id, hold_seconds=30 * self._random.uniform(2 / 3, 1))
            try:
                outcome = await self._network.call(poll)
            except (ConnectionLost, QueueFull):
                await asyncio.sleep(self._random.uniform(0.5, 5))
                continue
            except ResultGone:
                if op_id in self._records.samples:
                    return None
                raise Violation(f"the result of {op_id} is gone before its client had it") from None
            except NotFound:
                raise Violation(f"{op_id} was promised and is not known") from None
            if outcome is not None:
                self._records.told(op_id, outcome)
                if self._random.random() < 0.9 or op_id in self._records.samples:
                    return outcome
                await asyncio.sleep(self._random.uniform(0, 30))  # and once more: it must still be the same

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            try:
                await self._network.call(lambda s: s.sessions.require_active(self._owner, self._session_id))
            except ConnectionLost:
                continue
            except SessionEnded:
                raise Violation("a session was ended though its client is alive") from None

    # --- sampling ---

    async def _draw_from(self, sampling_session_id: str, source: Place | None) -> None:
        numbers = iter(range(100))
        drawing = [self._draw(sampling_session_id, source, numbers) for _ in range(self._random.randint(1, 3))]
        await asyncio.gather(*drawing)

    async def _draw(self, sampling_session_id: str, source: Place | None, numbers) -> None:
        prompt = (self._random.randrange(3, 100),)
        outcome = None
        while outcome is None:
            wire = WireSampleRequest(
                sampling_session_id=sampling_session_id,
                seq_id=next(numbers),
                prompt=np.array(prompt),
                num_samples=self._random.randint(1, 2),
                params=SamplingParamsBody(max_tokens=1),
            )
            self._records.asked[Place(sampling_session_id, wire.seq_id)] = Bad()
            promise = await self._submit(lambda s, wire=wire: s.sampling.sample(self._owner, wire))
            op_id = promise.op_id
            self._records.promised(Place(sampling_session_id, wire.seq_id), op_id)
            self._records.samples[op_id] = SampleAsked(source, prompt)
            if self._random.random() < 0.1:
                asyncio.create_task(self._cancel(op_id)).add_done_callback(_ignore)
            outcome = await self._outcome(op_id)
            if outcome is None:
                self._records.abandoned.add(op_id)

    async def _cancel(self, op_id: str) -> None:
        async def cancel(service: Service) -> None:
            service.sampling.cancel(self._owner, op_id)

        await self._network.call(cancel)


class _Program:
    """The calls on one run, each submitted when all of the one before have been taken."""

    def __init__(self, client: Client, lane: str) -> None:
        self._client = client
        self._lane = lane
        self._random = client._random
        self._next = 1
        self._names = iter(range(100))
        self._paths: list[str] = []

    async def run(self) -> None:
        calls = (self._pass, self._step, self._save, self._save_for_sampler, self._load, self._skip, self._bad)
        for _ in range(self._random.randint(4, 9)):
            (call,) = self._random.choices(calls, (8, 6, 2, 1.5, 1.5, 0.7, 0.7))
            asked = await call()
            if asked and self._random.random() < 0.2:
                await asyncio.gather(*asked)
            await asyncio.sleep(self._random.choice((0, 0, 0, 0.01, 1, 5)))

    def _take(self) -> int:
        self._next += 1
        return self._next - 1

    async def _ask(self, deed: Deed, send: Callable[[Service, int], Awaitable[str]]):
        seq_id = self._take()
        return await self._client._ask(Place(self._lane, seq_id), deed, lambda s: send(s, seq_id))

    async def _pass(self):
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
        if self._client._may_poison and draw > 0.95:
            first = POISON_TOKEN
        return Pass((first, self._random.randrange(3, 9)), is_forward_only=self._random.random() < 0.15)

    async def _ask_pass(self, seq_id: int, deed: Pass):
        tokens = np.array(deed.tokens)
        inputs = {"target_tokens": tokens, "weights": np.ones(len(tokens), np.float32)}
        batch = TrainingBatch(
            data=[Datum(tokens=tokens, loss_fn_inputs=inputs)],
            loss_fn="cross_entropy",
            loss_fn_config={},
            forward_only=deed.is_forward_only,
        )
        request = ForwardBackwardRequest(model_id=self._lane, seq_id=seq_id, batch=batch)
        return await self._client._ask(
            Place(self._lane, seq_id), deed, lambda s: s.training.forward_backward(self._client._owner, request)
        )

    async def _step(self):
        deed = Step(0.0 if self._random.random() < 0.1 else 0.1)
        adam = AdamParams(learning_rate=deed.learning_rate)
        owner = self._client._owner
        return [await self._ask(deed, lambda s, seq_id: s.training.optim_step(owner, self._lane, seq_id, adam))]

    async def _save(self):
        name = f"c{next(self._names)}"
        path = f"tinker://{self._lane}/weights/{name}"
        self._client._records.saved[path] = Place(self._lane, self._next)
        saving = await self._ask_save(CheckpointKind.TRAINING, name)
        outcome = await saving
        if isinstance(outcome, Done):
            self._paths.append(path)
            if self._random.random() < 0.2 and self._client._num_models < 4:
                self._client._following.append(asyncio.create_task(self._client._train(path)))  # pyright: ignore
        return []

    async def _save_for_sampler(self):
        saving = await self._ask_save(CheckpointKind.SAMPLER, None)
        source = Place(self._lane, self._next - 1)
        outcome = await saving
        if isinstance(outcome, Done):
            sampling_session_id = orjson.loads(outcome.body)["sampling_session_id"]
            drawing = asyncio.create_task(self._client._draw_from(sampling_session_id, source))
            self._client._following.append(drawing)  # pyright: ignore
        return []

    async def _ask_save(self, kind: CheckpointKind, name: str | None):
        request = SaveRequest(kind=kind, name=name)
        owner = self._client._owner
        return await self._ask(Save(kind, name), lambda s, seq_id: s.training.save(owner, self._lane, seq_id, request))

    async def _load(self):
        if not self._paths:
            return await self._pass()
        deed = Load(self._random.choice(self._paths), self._random.random() < 0.7)
        owner = self._client._owner
        loading = await self._ask(
            deed,
            lambda s, seq_id: s.training.load(
                owner, self._lane, seq_id, deed.path, with_optimizer=deed.with_optimizer, lender=None
            ),
        )
        if self._random.random() < 0.6 and isinstance(await loading, Done):
            self._paths.remove(deed.path)
            await self._client._submit(lambda s: _delete(s, owner, deed.path))
        return [loading]

    async def _skip(self):
        self._take()
        return []

    async def _bad(self):
        owner, error = self._client._owner, InvalidInput("bad")
        return [await self._ask(Bad(), lambda s, seq_id: s.training.optim_step(owner, self._lane, seq_id, error))]


async def _poll(service: Service, *, owner: str, op_id: str, hold_seconds: float) -> Done | Failure | None:
    with service.polls.held(owner):
        return await service.operations.outcome(owner, op_id, hold_seconds=hold_seconds)


async def _finish(service: Service, owner: str, session_id: str) -> None:
    if await service.sessions.finish(owner, session_id, reason="success", detail=None):
        await service.end_session(session_id)


async def _delete(service: Service, owner: str, path: str) -> None:
    with contextlib.suppress(NotFound):  # the answer to an earlier try was lost
        await service.checkpoint_changes.delete(owner, path)


def _ignore(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and isinstance(error := task.exception(), Violation):
        raise error
