"""The checkpoints that a client saves of one run: overwritten, copied, deleted, or given a lifetime."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from typing import Any

from eztinker.errors import CheckpointNotFound, NotFound
from eztinker.service.checkpoints.copies import CopyTarget
from eztinker.service.execution.plans import Done
from eztinker.service.service import Service
from eztinker.service.training.training import SaveRequest
from eztinker.types import CheckpointKind
from tests.simulation.calls import Asked, Caller, Outcome
from tests.simulation.clock import SimulatedClock
from tests.simulation.habits import Habits
from tests.simulation.records import Violation, lane_of
from tests.simulation.samplers import Sampler
from tests.simulation.states import Load, Source

MOST_MODELS = 4
"""Runs of a client, those that begin from checkpoints with them."""
LIFETIMES = (5, 20, 100)
"""Seconds; the server's least is an hour, which the simulation takes for one second."""

SaveAs = Callable[[SaveRequest, str], Awaitable[tuple[asyncio.Task[Outcome], Source]]]
Begin = Callable[[Source, bool], Coroutine[Any, Any, None]]
"""Whether the checkpoint may be gone by then is the second argument."""


class Shelf:
    def __init__(self, caller: Caller, lane: str, habits: Habits, save_as: SaveAs, begin: Begin) -> None:
        self._caller = caller
        self._random = caller.random
        self._lane = lane
        self._habits = habits
        self._save_as = save_as
        self._begin = begin
        self._names = iter(range(100))
        self._paths: list[str] = []
        """Of checkpoints that are not overwritten, and of copies: whoever reads there finds what was saved."""
        self._latest: Source | None = None
        """The name that is overwritten, once it has been saved."""

    async def save(self) -> Asked:
        path, saving, _ = await self._save(CheckpointKind.TRAINING, f"c{next(self._names)}")
        if isinstance(await saving, Done):
            self._paths.append(path)
            if self._random.random() < 0.2:
                self._go_on_from(Source(path))
        return []

    def to_load(self) -> Load | None:
        """What may be loaded into the run itself, which loads before it deletes."""
        sources = self._sources()
        if not sources:
            return None
        return Load(self._random.choice(sources), self._random.random() < 0.7, may_be_gone=False)

    def _sources(self) -> list[Source]:
        latest = [] if self._latest is None else [self._latest]
        return [Source(path) for path in self._paths] + latest

    async def delete(self, path: str) -> None:
        if path in self._paths:
            self._paths.remove(path)
            self._caller.records.may_be_gone.add(path)
            owner = self._caller.owner
            await self._caller.submit(lambda s: _delete(s, owner, path))

    async def overwrite(self) -> Asked:
        """Save under the one name, and read there while that goes on: always one of the two is there."""
        path, saving, source = await self._save(CheckpointKind.TRAINING, "latest", overwrite=True)
        self._caller.follow(self._overwritten(saving, source))
        if self._latest is not None:
            owner = self._caller.owner
            await self._caller.submit(lambda s: s.checkpoints.find(owner, path))
            self._go_on_from(self._latest, may_be_gone=False)
        return [saving]

    async def _overwritten(self, saving: asyncio.Task[Outcome], source: Source) -> None:
        if isinstance(await saving, Done):
            self._latest = max(source, self._latest or source)

    async def save_for_a_while(self) -> Asked:
        kind = self._random.choice((CheckpointKind.TRAINING, CheckpointKind.SAMPLER))
        ttl_seconds = self._random.choice(LIFETIMES)
        name = f"brief{next(self._names)}"
        _, saving, source = await self._save(kind, name, ttl_seconds=ttl_seconds)
        self._caller.follow(self._use_for_a_while(saving, source, kind, ttl_seconds))
        return [saving]

    async def _use_for_a_while(
        self, saving: asyncio.Task[Outcome], source: Source, kind: CheckpointKind, ttl_seconds: int
    ) -> None:
        """What has begun with a checkpoint goes on when its time is over."""
        if not isinstance(await saving, Done):
            return
        if kind is CheckpointKind.SAMPLER:
            self._caller.follow(self._sample(source))
        else:
            self._go_on_from(source)
        expires_at = None
        for _ in range(3):
            expires_at = await self._caller.submit(lambda s, last=expires_at: self._look(s, source.path, last))
            await asyncio.sleep(self._random.uniform(0, ttl_seconds))

    async def _look(self, service: Service, path: str, expires_at: datetime | None) -> datetime | None:
        """When the checkpoint expires; it is there until then and not after, by the server's clock.

        Args: expires_at: what an earlier look has said.
        """
        clock = service.clock
        assert isinstance(clock, SimulatedClock)
        try:
            checkpoint, _ = await service.checkpoints.find(self._caller.owner, path)
        except CheckpointNotFound:
            if expires_at is not None and clock.latest < expires_at:
                raise Violation(f"{path} is gone before its time") from None
            return expires_at
        if checkpoint.expires_at is None or checkpoint.expires_at <= clock.now():
            raise Violation(f"{path} is there after its time")
        return checkpoint.expires_at

    async def _sample(self, source: Source) -> None:
        caller = self._caller

        async def create(service: Service) -> str:
            session = await service.sampling.create_session(
                caller.owner, session_id=caller.session_id, seq_id=seq_id, base_model=None, model_path=source.path
            )
            return session.sampling_session_id

        seq_id = caller.new_sampler_number()
        with contextlib.suppress(CheckpointNotFound):
            sampler = Sampler(caller, self._habits, await caller.submit(create, may_refuse=(CheckpointNotFound,)))
            for _ in range(2):
                await sampler.draw(lambda: source, may_be_gone=True)
                await asyncio.sleep(self._random.uniform(0, 30))

    async def copy(self) -> Asked:
        """Go on from a copy, which stays when the original is deleted or overwritten."""
        if not self._sources():
            await self.save()
        if not self._sources():
            return []
        source = self._random.choice(self._sources())
        path = await self._copy(source)
        self._paths.append(path)
        if self._random.random() < 0.5:
            await self.delete(source.path)
        self._go_on_from(Source(path))
        return []

    async def _copy(self, source: Source) -> str:
        caller = self._caller
        if self._random.random() < 0.5:
            key = None
            slot, number = caller.new_lane()
            target = CopyTarget(session_id=caller.session_id, model_seq_id=number, project_id=None)
        else:
            slot = key = f"{self._lane} copy {next(self._names)}"
            target = CopyTarget(session_id=None, model_seq_id=None, project_id="copies")
        caller.records.copies[slot] = source
        path = await caller.submit(
            lambda s: s.checkpoint_copies.copy(
                caller.owner, source.path, target, ttl_seconds=None, lender=None, idempotency_key=key
            )
        )
        caller.records.copies[lane_of(path)] = source
        caller.records.copied.add(path)
        return path

    async def _save(
        self, kind: CheckpointKind, name: str, *, overwrite: bool = False, ttl_seconds: int | None = None
    ) -> tuple[str, asyncio.Task[Outcome], Source]:
        path = f"tinker://{self._lane}/{kind}/{name}"
        request = SaveRequest(kind=kind, name=name, overwrite=overwrite, ttl_seconds=ttl_seconds)
        if ttl_seconds is not None:
            self._caller.records.may_be_gone.add(path)
        return path, *await self._save_as(request, path)

    def _go_on_from(self, source: Source, *, may_be_gone: bool = True) -> None:
        """Begin a run there, if there are not too many."""
        if self._caller.num_models < MOST_MODELS:
            self._caller.follow(self._begin(source, may_be_gone))


async def _delete(service: Service, owner: str, path: str) -> None:
    with contextlib.suppress(NotFound):  # the answer to an earlier try was lost
        await service.checkpoint_changes.delete(owner, path)
