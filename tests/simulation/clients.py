"""Clients that keep the rules of the official SDK: numbers in order, the first chunk last, retries, heartbeats."""

from __future__ import annotations

import asyncio
import contextlib
from random import Random

from eztinker.errors import SessionEnded
from eztinker.service.execution.plans import Done
from eztinker.service.service import Service
from eztinker.service.sessions.sessions import SessionRequest
from eztinker.service.training.training_runs import LoraRequest, NewRun
from tests.simulation.calls import Caller, GaveUp
from tests.simulation.habits import Habits
from tests.simulation.network import ConnectionLost, Network
from tests.simulation.programs import Program
from tests.simulation.records import Place, Records, Violation
from tests.simulation.states import Create, Load, Source

HEARTBEAT_SECONDS = 6.0


class Client:
    """One program of one owner: some runs, and samples from what they save."""

    def __init__(
        self, owner: str, network: Network, random: Random, records: Records, habits: Habits, *, poison: bool
    ) -> None:
        self._owner = owner
        self._random = random
        self._habits = habits
        self._may_poison = poison
        self._caller = Caller(owner, network, random, records)

    async def run(self, *, num_runs: int, says_goodbye: bool) -> None:
        caller = self._caller
        request = SessionRequest(tags=[], user_metadata={}, sdk_version="", project_id=None, display_name=None)
        key = f"{self._owner} session"
        session = await caller.submit(lambda s: s.sessions.create(self._owner, request, idempotency_key=key))
        caller.session_id = session.session_id
        beating = asyncio.create_task(self._heartbeat())
        try:
            await asyncio.gather(*(self._train() for _ in range(num_runs)))
            await caller.finish()
        except GaveUp:
            pass
        finally:
            beating.cancel()
        if says_goodbye:
            with contextlib.suppress(GaveUp):
                await caller.submit(lambda s: _finish(s, self._owner, session.session_id))

    async def _train(self) -> None:
        lane, new = self._new_run()
        deed = Create(self._random.randrange(1000))
        lora = LoraRequest(rank=1, seed=deed.seed, train_attn=True, train_mlp=True, train_unembed=True)
        begin = await self._caller.ask(
            Place(lane, 0),
            deed,
            lambda s: s.runs.create(self._owner, new, base_model="tiny", lora=lora, optimizer_family=None),
        )
        if isinstance(await begin, Done):
            await self._program(lane).run()

    async def _train_from(self, source: Source, may_be_gone: bool) -> None:
        lane, new = self._new_run()
        deed = Load(source, self._random.random() < 0.7, may_be_gone=may_be_gone)
        begin = await self._caller.ask(
            Place(lane, 0),
            deed,
            lambda s: s.runs.create_from_checkpoint(
                self._owner,
                new,
                path=source.path,
                with_optimizer=deed.with_optimizer,
                base_model=None,
                optimizer_family=None,
                lender=None,
            ),
        )
        if isinstance(await begin, Done):
            await self._program(lane).run()

    def _new_run(self) -> tuple[str, NewRun]:
        lane, number = self._caller.new_lane()
        return lane, NewRun(session_id=self._caller.session_id, model_seq_id=number, user_metadata=None)

    def _program(self, lane: str) -> Program:
        return Program(self._caller, lane, self._habits, self._train_from, may_poison=self._may_poison)

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            try:
                await self._caller.network.call(self._beat)
            except ConnectionLost:
                continue
            except SessionEnded:
                raise Violation("a session was ended though its client is alive") from None

    async def _beat(self, service: Service) -> None:
        await service.sessions.require_active(self._owner, self._caller.session_id)


async def _finish(service: Service, owner: str, session_id: str) -> None:
    if await service.sessions.finish(owner, session_id, reason="success", detail=None):
        await service.end_session(session_id)
