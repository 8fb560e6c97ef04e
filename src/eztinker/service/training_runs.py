"""Training runs: one adapter over a base model each; `model_id` on the wire."""

from __future__ import annotations

import secrets
from typing import Any

from sqlalchemy import Connection

from eztinker.base_models.catalog import BaseModel, Catalog
from eztinker.errors import EZTinkerError, InvalidInput, UserError
from eztinker.oplog import checkpoints, models
from eztinker.oplog.rows import Checkpoint, Model, ModelStatus
from eztinker.oplog.store import Store
from eztinker.protocol.frames import CreateModel, LoadModel, UnloadModel
from eztinker.service.access import owned
from eztinker.service.checkpoints import Checkpoints
from eztinker.service.clock import Clock
from eztinker.service.new_operation import NewOperation, Refused, new_op_id
from eztinker.service.operations import Operations
from eztinker.service.plans import BeginPlan, UnloadPlan
from eztinker.service.recovery import ended_error
from eztinker.service.run_lanes import RunLanes
from eztinker.service.sessions import Sessions
from eztinker.service.validation import check_lora, check_metadata, check_optimizer_family, check_seq_id
from eztinker.types import CheckpointKind, LoraSpec, Page, Record


class LoraRequest(Record):
    """The adapter a client asks for."""

    rank: int
    seed: int | None
    train_attn: bool
    train_mlp: bool
    train_unembed: bool

    def spec(self) -> LoraSpec:
        """The adapter, with a seed of our own where the client has none."""
        return LoraSpec(
            rank=self.rank,
            seed=secrets.randbits(31) if self.seed is None else self.seed,
            train_attn=self.train_attn,
            train_mlp=self.train_mlp,
            train_unembed=self.train_unembed,
        )


class RunListing(Record):
    """A run with the newest checkpoints of both kinds."""

    model: Model
    last_checkpoint: Checkpoint | None
    last_sampler_checkpoint: Checkpoint | None

    @property
    def is_corrupted(self) -> bool:
        """Whether the run ended other than on purpose."""
        return self.model.status in (ModelStatus.LOST, ModelStatus.FAILED)


class TrainingRuns:
    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        sessions: Sessions,
        operations: Operations,
        lanes: RunLanes,
        saved: Checkpoints,
        clock: Clock,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._sessions = sessions
        self._operations = operations
        self._lanes = lanes
        self._saved = saved
        self._clock = clock

    async def create(
        self,
        owner: str,
        *,
        session_id: str,
        model_seq_id: int,
        base_model: str,
        lora: LoraRequest,
        optimizer_family: str | None,
        user_metadata: dict[str, Any] | None,
    ) -> str:
        """Begin a run with a fresh adapter; the promise ends in its model_id, or in what was wrong."""
        model_id = await self._model_id(owner, session_id, model_seq_id)
        op_id = new_op_id()
        try:
            check_optimizer_family(optimizer_family)
            check_metadata(user_metadata)
            spec = check_lora(lora.spec())
            served = self._catalog.get(base_model)
        except UserError as error:
            return await self._refuse(owner, op_id, model_id, "create_model", error)
        command = CreateModel(op_id=op_id, model_id=model_id, base_model=served.name, lora=spec)
        model = self._model(owner, session_id, model_id, served.name, spec, user_metadata)
        return await self._begin(owner, op_id, model_id, "create_model", command, model)

    async def create_from_checkpoint(
        self,
        owner: str,
        *,
        session_id: str,
        model_seq_id: int,
        path: str,
        with_optimizer: bool,
        base_model: str | None,
        optimizer_family: str | None,
        user_metadata: dict[str, Any] | None,
    ) -> str:
        """Begin a run with the adapter of a checkpoint; the promise ends in its model_id, or in what was wrong."""
        model_id = await self._model_id(owner, session_id, model_seq_id)
        op_id = new_op_id()
        try:
            check_optimizer_family(optimizer_family)
            check_metadata(user_metadata)
            checkpoint, source = await self._saved.loadable(owner, path, with_optimizer=with_optimizer)
            if base_model is not None and self._catalog.get(base_model).name != source.base_model:
                raise InvalidInput(f"{path} was trained over {source.base_model}, not over {base_model}")
        except UserError as error:
            return await self._refuse(owner, op_id, model_id, "load_weights", error)
        command = LoadModel(
            op_id=op_id,
            model_id=model_id,
            directory=str(self._saved.directory(checkpoint.checkpoint_id)),
            with_optimizer=with_optimizer,
        )
        model = self._model(owner, session_id, model_id, source.base_model, source, user_metadata)
        return await self._begin(owner, op_id, model_id, "load_weights", command, model)

    async def get(self, owner: str, model_id: str) -> Model:
        row = await self._store.read(lambda db: models.get(db, model_id))
        return owned(row, owner, f"training run {model_id!r}")

    async def require_active(self, owner: str, model_id: str) -> Model:
        """The run, whose session has just been heard of.

        Raises:
            NotFound: the owner has no such run.
            SessionEnded: its session is over.
        """
        model = await self.get(owner, model_id)
        await self._sessions.require_active(owner, model.session_id)
        return model

    def base_model(self, model: Model) -> BaseModel:
        return self._catalog.get(model.base_model)

    async def listing(self, owner: str, model_id: str) -> RunListing:
        model = await self.get(owner, model_id)
        return await self._store.read(lambda db: _listing(db, model))

    async def listings(self, owner: str, page: Page) -> tuple[list[RunListing], int]:
        """The owner's runs, newest first, and how many there are."""

        def query(db: Connection) -> tuple[list[RunListing], int]:
            rows, total = models.of_owner(db, owner, page)
            return [_listing(db, model) for model in rows], total

        return await self._store.read(query)

    async def unload(self, owner: str, model_id: str) -> str:
        """Take the run out of the engine; its checkpoints stay."""
        return await self._unload(await self.require_active(owner, model_id))

    async def end_session(self, session_id: str) -> None:
        """Take out everything that a session which is over has left in the engine."""
        left = await self._store.read(lambda db: models.of_session(db, session_id))
        for model in left:
            if model.status is ModelStatus.ACTIVE:
                await self._unload(model)

    async def ended_error(self, model: Model) -> EZTinkerError | None:
        """Why a run takes no more operations; None for one that does."""
        if model.status is ModelStatus.ACTIVE:
            return None
        return await self._store.read(lambda db: ended_error(db, model))

    async def _unload(self, model: Model) -> str:
        op_id = new_op_id()
        model_id = model.model_id
        kind = "unload_model"
        new: NewOperation | Refused
        if (error := await self.ended_error(model)) is not None:
            new = Refused(op_id=op_id, owner=model.owner, lane=model_id, seq_id=None, kind=kind, error=error)
        else:
            new = NewOperation(
                op_id=op_id,
                owner=model.owner,
                lane=model_id,
                seq_id=None,
                kind=kind,
                work=UnloadModel(op_id=op_id, model_id=model_id),
                plan=UnloadPlan(model_id=model_id),
                also=lambda db: models.set_status(db, [model_id], ModelStatus.UNLOADED),
            )
        promise = await self._lanes.submit(new, is_chunked=False)
        self._lanes.close(model_id)
        return promise

    async def _model_id(self, owner: str, session_id: str, model_seq_id: int) -> str:
        """The id that the client computes for itself when it creates a run from a checkpoint."""
        await self._sessions.require_active(owner, session_id)
        return f"{session_id}:train:{check_seq_id(model_seq_id)}"

    def _model(
        self,
        owner: str,
        session_id: str,
        model_id: str,
        base_model: str,
        shape: LoraSpec | Model,
        user_metadata: dict[str, Any] | None,
    ) -> Model:
        now = self._clock.now()
        return Model(
            model_id=model_id,
            owner=owner,
            session_id=session_id,
            base_model=base_model,
            rank=shape.rank,
            train_attn=shape.train_attn,
            train_mlp=shape.train_mlp,
            train_unembed=shape.train_unembed,
            user_metadata=user_metadata,
            created_at=now,
            last_request_at=now,
        )

    async def _begin(
        self,
        owner: str,
        op_id: str,
        model_id: str,
        kind: str,
        work: CreateModel | LoadModel,
        model: Model,
    ) -> str:
        """Accept a run's first operation, number 0 of its lane; a repeat is the same run."""
        new = NewOperation(
            op_id=op_id,
            owner=owner,
            lane=model_id,
            seq_id=0,
            kind=kind,
            work=work,
            plan=BeginPlan(kind=kind, model_id=model_id),
            also=lambda db: models.add(db, model),
        )
        promise = await self._operations.accept(new)
        if promise == op_id:
            self._lanes.open(model_id)
            self._lanes.start_first(new)
        return promise

    async def _refuse(self, owner: str, op_id: str, model_id: str, kind: str, error: UserError) -> str:
        refused = Refused(op_id=op_id, owner=owner, lane=model_id, seq_id=0, kind=kind, error=error)
        return await self._operations.accept(refused)


def _listing(db: Connection, model: Model) -> RunListing:
    rows = checkpoints.of_models(db, [model.model_id])

    def newest(kind: CheckpointKind) -> Checkpoint | None:
        return next((row for row in rows if row.kind is kind), None)

    return RunListing(
        model=model,
        last_checkpoint=newest(CheckpointKind.TRAINING),
        last_sampler_checkpoint=newest(CheckpointKind.SAMPLER),
    )
