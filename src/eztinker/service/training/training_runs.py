"""Training runs: one adapter over a base model each; `model_id` on the wire."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import Connection

from eztinker.base_models.catalog import BaseModel, Catalog
from eztinker.errors import CheckpointDamaged, InvalidInput, SessionEnded, UserError
from eztinker.oplog import models
from eztinker.oplog.rows import Model, ModelStatus
from eztinker.oplog.store import Store
from eztinker.protocol.frames import CreateModel, LoadModel, UnloadModel
from eztinker.service.accounts.access import owned
from eztinker.service.accounts.fair_share import require_share
from eztinker.service.checkpoints.checkpoints import Checkpoints
from eztinker.service.clock import Clock
from eztinker.service.execution.futures import Futures
from eztinker.service.execution.operation import Operation, new_op_id
from eztinker.service.execution.plans import BeginPlan, UnloadPlan
from eztinker.service.execution.recovery import advice_to_go_on, ended_error
from eztinker.service.execution.run_lanes import RunLanes
from eztinker.service.sessions.sessions import Sessions
from eztinker.service.training.run_directory import run_label
from eztinker.service.validation import check_lora, check_metadata, check_optimizer_family, check_seq_id
from eztinker.types import LoraSpec, OperationKind, Record

MAX_KNOWN = 1024
"""Most runs whose rows are cached."""


class LoraRequest(Record):
    """The adapter a client asks for."""

    rank: int
    seed: int | None
    train_attn: bool
    train_mlp: bool
    train_unembed: bool

    def spec(self) -> LoraSpec:
        """Specify the adapter, with a random seed where the client gives none."""
        return LoraSpec(
            rank=self.rank,
            seed=secrets.randbits(31) if self.seed is None else self.seed,
            train_attn=self.train_attn,
            train_mlp=self.train_mlp,
            train_unembed=self.train_unembed,
        )


class NewRun(Record):
    """The place of a new run: its session, and the number that the client gives it there."""

    session_id: str
    model_seq_id: int
    user_metadata: dict[str, Any] | None

    @property
    def model_id(self) -> str:
        """The id that the client computes for itself when it creates a run from a checkpoint."""
        return f"{self.session_id}:train:{self.model_seq_id}"


class TrainingRuns:
    """Creates, finds and unloads training runs."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        sessions: Sessions,
        futures: Futures,
        lanes: RunLanes,
        saved: Checkpoints,
        clock: Clock,
        *,
        max_runs: int,
    ) -> None:
        self._max_runs = max_runs
        self._store = store
        self._catalog = catalog
        self._sessions = sessions
        self._futures = futures
        self._lanes = lanes
        self._saved = saved
        self._clock = clock
        self._known: dict[str, Model] = {}
        """Rows of runs used lately. All columns but status and last use never change, so a row stays good for these."""

    async def create(
        self, owner: str, new: NewRun, *, base_model: str, lora: LoraRequest, optimizer_family: str | None
    ) -> str:
        """Begin a run with a fresh adapter; its future ends in the model_id, or in what was wrong."""

        async def plan(op_id: str, model_id: str) -> tuple[CreateModel, Model]:
            check_optimizer_family(optimizer_family)
            check_metadata(new.user_metadata)
            spec = check_lora(lora.spec())
            served = self._catalog.get(base_model)
            command = CreateModel(op_id=op_id, model_id=model_id, base_model=served.name, lora=spec)
            return command, await self._model(owner, new, served.name, spec)

        return await self._begin(owner, new, OperationKind.CREATE_MODEL, plan)

    async def create_from_checkpoint(
        self,
        owner: str,
        new: NewRun,
        *,
        path: str,
        with_optimizer: bool,
        base_model: str | None,
        optimizer_family: str | None,
        lender: str | None,
    ) -> str:
        """Begin a run with the adapter of a checkpoint; its future ends in the model_id, or in what was wrong."""

        async def plan(op_id: str, model_id: str) -> tuple[LoadModel, Model]:
            check_optimizer_family(optimizer_family)
            check_metadata(new.user_metadata)
            checkpoint, source = await self._saved.loadable(owner, path, with_optimizer=with_optimizer, lender=lender)
            if base_model is not None and self._catalog.get(base_model).name != source.base_model:
                raise InvalidInput(f"{path} was trained over {source.base_model}, not over {base_model}")
            directory = str(self._saved.directory(checkpoint.checkpoint_id))
            command = LoadModel(op_id=op_id, model_id=model_id, directory=directory, with_optimizer=with_optimizer)
            return command, await self._model(owner, new, source.base_model, source)

        return await self._begin(owner, new, OperationKind.LOAD_WEIGHTS, plan)

    async def get(self, owner: str, model_id: str) -> Model:
        """Read a run of the owner's from the log."""
        row = await self._store.read(lambda db: models.get(db, model_id))
        return owned(row, owner, f"training run {model_id!r}")

    async def meant(self, owner: str, reference: str) -> Model:
        """The model with this id, or the model used last of the run that `reference` names."""
        found = await self._store.read(lambda db: models.resolve(db, reference, [owner]))
        return owned(found[0] if found else None, owner, f"training run {reference!r}")

    async def in_use(self, owner: str, model_id: str) -> Model:
        """Get a run for a request, which keeps its session alive. Only the log knows whether the run has ended since.

        Raises:
            NotFound: the owner has no such run.
            SessionEnded: its session is over; the message names the checkpoint to go on from.
        """
        model = self._known.get(model_id)
        if model is None or model.owner != owner:
            model = await self.get(owner, model_id)
            if len(self._known) >= MAX_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[model_id] = model
        try:
            await self._sessions.touch_session(owner, model.session_id)
        except SessionEnded as error:
            advice = await self._store.read(lambda db: advice_to_go_on(db, model_id))
            raise SessionEnded(f"{error.message}. {advice}" if advice else error.message) from None
        return model

    def base_model(self, model: Model) -> BaseModel:
        return self._catalog.get(model.base_model)

    async def unload(self, owner: str, model_id: str) -> str:
        """Take the run out of the engine; its checkpoints stay."""
        await self.in_use(owner, model_id)
        return await self.take_out(await self.get(owner, model_id))

    async def take_out(self, model: Model) -> str:
        """Unload a run, whatever the state of its session, and return the id of the future."""
        op_id = new_op_id()
        model_id = model.model_id
        operation = Operation(
            op_id=op_id,
            owner=model.owner,
            lane=model_id,
            seq_id=None,
            kind=OperationKind.UNLOAD_MODEL,
            work=UnloadModel(op_id=op_id, model_id=model_id),
            plan=UnloadPlan(model_id=model_id),
            stored_with=lambda db: models.set_status(db, [model_id], ModelStatus.UNLOADED),
            needs_room=False,
        )
        if model.status is not ModelStatus.ACTIVE:
            operation = operation.refused(await self._store.read(lambda db: ended_error(db, model)))
        future_id = await self._lanes.submit(operation)
        self._lanes.close(model_id)
        return future_id

    async def _model(self, owner: str, new: NewRun, base_model: str, shape: LoraSpec | Model) -> Model:
        """The row of a new model.

        Raises:
            NotFound: the run it is to carry on is not there.
        """
        now = self._clock.now()
        label = run_label(new.user_metadata)
        carried = None if label.carries_on is None else await self.meant(owner, label.carries_on)
        return Model(
            model_id=new.model_id,
            owner=owner,
            session_id=new.session_id,
            base_model=base_model,
            rank=shape.rank,
            train_attn=shape.train_attn,
            train_mlp=shape.train_mlp,
            train_unembed=shape.train_unembed,
            user_metadata=new.user_metadata,
            created_at=now,
            last_request_at=now,
            run_id=None if carried is None else carried.run_id,
            name=label.name,
            note=label.note,
        )

    async def _begin(
        self,
        owner: str,
        new: NewRun,
        kind: OperationKind,
        plan: Callable[[str, str], Awaitable[tuple[CreateModel | LoadModel, Model]]],
    ) -> str:
        """Accept a run's first operation, number 0 of its lane; a repeat is the same run.

        Args:
            plan: makes the command and the run from their ids, or raises what is wrong with the request.
        """
        await self._sessions.require_active(owner, new.session_id)
        check_seq_id(new.model_seq_id)
        op_id, model_id = new_op_id(), new.model_id
        try:
            work, model = await plan(op_id, model_id)
        except (UserError, CheckpointDamaged) as error:
            refused = Operation(op_id=op_id, owner=owner, lane=model_id, seq_id=0, kind=kind, work=error)
            return await self._futures.accept(refused)
        operation = Operation(
            op_id=op_id,
            owner=owner,
            lane=model_id,
            seq_id=0,
            kind=kind,
            work=work,
            plan=BeginPlan(kind=kind, model_id=model_id),
            stored_with=lambda db: self._add(db, model),
        )
        future_id = await self._futures.accept(operation)
        if future_id == op_id:
            self._lanes.open(model_id)
            self._lanes.start_first(operation)
        return future_id

    def _add(self, db: Connection, model: Model) -> None:
        """Store a new run, if its owner may have one more.

        Raises:
            QueueFull: it has its share of those that may live at once.
        """
        active = models.num_active(db)
        require_share(active.get(model.owner, 0), sum(active.values()), self._max_runs, "training runs loaded")
        models.add(db, model)
