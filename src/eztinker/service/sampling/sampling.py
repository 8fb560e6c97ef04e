"""Sampling sessions, which fix what is sampled from, and the samples drawn in them."""

from __future__ import annotations

import secrets

import msgspec
from sqlalchemy import Connection

from eztinker.base_models.catalog import Catalog
from eztinker.errors import AlreadyExists, CheckpointNotFound, InvalidInput
from eztinker.oplog import checkpoints, sessions
from eztinker.oplog.rows import Checkpoint, SamplingSession
from eztinker.oplog.store import Store
from eztinker.protocol.frames import Sample
from eztinker.protocol.sampling_codec import WireSampleRequest
from eztinker.service.accounts.access import owned
from eztinker.service.checkpoints.checkpoints import Checkpoints, tinker_path
from eztinker.service.clock import Clock
from eztinker.service.execution.engine_process import EngineProcess
from eztinker.service.execution.futures import Futures
from eztinker.service.execution.operation import Operation, new_op_id
from eztinker.service.execution.plans import SamplePlan
from eztinker.service.sampling.sample_streams import SampleStream
from eztinker.service.sampling.sample_turns import SampleTurns
from eztinker.service.sampling.sampling_requests import engine_request
from eztinker.service.sessions.recorded_samples import sequence_id
from eztinker.service.sessions.sampling_sessions import new_sampling_session
from eztinker.service.sessions.sessions import Sessions
from eztinker.service.validation import check_seq_id
from eztinker.types import CheckpointKind, OperationKind, Record


class SampleFuture(Record):
    """An accepted sample, and what its completions will be called."""

    op_id: str
    sequence_ids: list[str]
    """Ids of the completions, in the order of the result."""


class Sampler(Record):
    """A sampling session with the path of its checkpoint, if it has a named one."""

    sampling_session: SamplingSession
    model_path: str | None


class Sampling:
    """Creates sampling sessions, and accepts samples in them."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        sessions_: Sessions,
        futures: Futures,
        turns: SampleTurns,
        engine: EngineProcess,
        saved: Checkpoints,
        clock: Clock,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._sessions = sessions_
        self._futures = futures
        self._turns = turns
        self._engine = engine
        self._saved = saved
        self._clock = clock

    async def create_session(
        self, owner: str, *, session_id: str, seq_id: int, base_model: str | None, model_path: str | None
    ) -> SamplingSession:
        """Make a sampling session on a base model or a sampler checkpoint; a repeated number gets the first one."""
        await self._sessions.require_active(owner, session_id)
        check_seq_id(seq_id)
        served_name, checkpoint_id = await self._source(owner, base_model, model_path)
        sampler = new_sampling_session(
            owner=owner,
            session_id=session_id,
            seq_id=seq_id,
            base_model=served_name,
            checkpoint_id=checkpoint_id,
            now=self._clock.now(),
        )
        return await self._store.write(lambda db: sessions.add_sampling_session(db, sampler))

    async def join(self, owner: str, sampling_session_id: str) -> int:
        """Number a copy of a sampling client in another process, uniquely in its session; the original is 0."""
        sampler, _ = await self._find(owner, sampling_session_id)
        await self._sessions.touch_session(owner, sampler.session_id)
        return await self._store.write(lambda db: sessions.count_clone(db, sampling_session_id))

    async def sampler(self, owner: str, sampling_session_id: str) -> Sampler:
        row, checkpoint = await self._find(owner, sampling_session_id)
        if checkpoint is None or checkpoint.name is None:
            return Sampler(sampling_session=row, model_path=None)
        return Sampler(sampling_session=row, model_path=tinker_path(checkpoint))

    async def sample(self, owner: str, wire: WireSampleRequest) -> SampleFuture:
        """Draw completions; the future ends in SampleResponse.

        Raises:
            QueueFull: the owner has its share of what may wait.
        """
        return await self._sample(owner, wire, new_op_id(), is_streamed=False)

    async def stream(self, owner: str, wire: WireSampleRequest) -> SampleStream:
        """Draw one completion whose tokens come as they are drawn.

        Raises:
            QueueFull: the owner has its share of what may wait.
            AlreadyExists: it is a repeat of a stream that another request reads.
        """
        if wire.num_samples != 1:
            raise InvalidInput(f"A stream carries 1 sample, got num_samples {wire.num_samples}", field="num_samples")
        if wire.params.seed is None:  # an engine that takes over has to draw the same tokens again
            seeded = msgspec.structs.replace(wire.params, seed=secrets.randbits(31))
            wire = msgspec.structs.replace(wire, params=seeded)
        stream = SampleStream(owner, new_op_id(), self._engine, self._futures, self._turns)
        try:
            future = await self._sample(owner, wire, stream.op_id, is_streamed=True)
        except BaseException:
            stream.close()
            raise
        if future.op_id == stream.op_id:
            return stream
        stream.close()
        if self._engine.is_watched(future.op_id):
            raise AlreadyExists(
                f"The sample with seq_id {wire.seq_id} is streamed to another request; read that one, or use another "
                "seq_id"
            )
        return SampleStream(owner, future.op_id, self._engine, self._futures, self._turns, is_repeat=True)

    def cancel(self, owner: str, op_id: str) -> None:
        """Give up a sample that has no outcome yet; whatever else `op_id` may name is left alone."""
        self._turns.cancel(owner, op_id)

    async def _sample(self, owner: str, wire: WireSampleRequest, op_id: str, *, is_streamed: bool) -> SampleFuture:
        sampler, checkpoint = await self._find(owner, wire.sampling_session_id)
        await self._sessions.touch_session(owner, sampler.session_id)
        if sampler.checkpoint_id is not None and checkpoint is None:
            raise CheckpointNotFound("The checkpoint behind this sampling client was deleted or has expired")
        base_model = self._catalog.get(sampler.base_model)
        request = engine_request(wire, base_model)
        directory = None if checkpoint is None else str(self._saved.directory(checkpoint.checkpoint_id))
        operation = Operation(
            op_id=op_id,
            owner=owner,
            lane=sampler.sampling_session_id,
            seq_id=wire.seq_id,
            kind=OperationKind.SAMPLE,
            work=Sample(
                op_id=op_id, base_model=base_model.name, directory=directory, request=request, is_streamed=is_streamed
            ),
            plan=SamplePlan(
                sampler=sampler,
                model_id=None if checkpoint is None else checkpoint.model_id,
                prompt=request.prompt,
                targets=wire.target_prompt_logprobs,
                is_recorded=wire.record_stability_info,
            ),
        )
        stored_id = await self._futures.accept(operation)
        if stored_id == op_id:
            self._turns.start(operation)
        sequence_ids = [sequence_id(stored_id, index) for index in range(request.num_samples)]
        return SampleFuture(op_id=stored_id, sequence_ids=sequence_ids)

    async def _source(self, owner: str, base_model: str | None, model_path: str | None) -> tuple[str, str | None]:
        """Find the served name of the base model, and the id of the checkpoint over it."""
        if model_path is None:
            if base_model is None:
                raise InvalidInput("A sampling session needs a base_model or a model_path", field="base_model")
            return self._catalog.get(base_model).name, None
        checkpoint, model = await self._saved.open(owner, model_path, "sample")
        if checkpoint.kind is not CheckpointKind.SAMPLER:
            raise InvalidInput(
                f"{model_path} is not a sampler checkpoint; save one with save_weights_for_sampler", field="model_path"
            )
        if base_model is not None and self._catalog.get(base_model).name != model.base_model:
            raise InvalidInput(
                f"{model_path} was trained over {model.base_model}, not over {base_model}", field="base_model"
            )
        return self._catalog.get(model.base_model).name, checkpoint.checkpoint_id

    async def _find(self, owner: str, sampling_session_id: str) -> tuple[SamplingSession, Checkpoint | None]:
        def query(db: Connection) -> tuple[SamplingSession, Checkpoint | None]:
            row = sessions.sampling_session(db, sampling_session_id)
            # before the checkpoint is looked for: a second look would tell a foreign session from one that is not there
            row = owned(row, owner, f"sampling session {sampling_session_id!r}")
            checkpoint_id = sessions.current_checkpoint_id(db, row)
            return row, None if checkpoint_id is None else checkpoints.get(db, checkpoint_id)

        return await self._store.read(query)
