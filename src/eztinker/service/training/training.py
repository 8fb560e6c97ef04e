"""The operations of a training run that are numbered by `seq_id`.

What is wrong with such a request is never told by an HTTP status: the official client would stop sending for good. It
gets a future, which fails with the reason, and its number counts as used.
"""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from sqlalchemy import Connection

from eztinker.checkpoints.encryption import parse_recipients
from eztinker.errors import CheckpointDamaged, EZTinkerError, InvalidInput, UserError
from eztinker.oplog import checkpoints, models, recorded_samples
from eztinker.oplog.rows import Checkpoint, Model, UsageKind
from eztinker.protocol.frames import ForwardBackward, LoadModel, OptimStep, SaveCheckpoint, TrainingCommand
from eztinker.protocol.training_codec import ForwardBackwardRequest
from eztinker.service.accounts.access import owned
from eztinker.service.accounts.usage import used_by_run
from eztinker.service.checkpoints.checkpoints import Checkpoints, tinker_path
from eztinker.service.clock import Clock
from eztinker.service.execution.operation import Operation, new_op_id
from eztinker.service.execution.plans import Change, LoadPlan, PassPlan, Plan, SavePlan, StepPlan
from eztinker.service.execution.recovery import ended_error
from eztinker.service.execution.run_lanes import RunLanes
from eztinker.service.sessions.recorded_samples import RecordedSamples
from eztinker.service.training.batch_validation import check_batch
from eztinker.service.training.provenance import reads_provenance, sequence_ids, with_recorded_logprobs
from eztinker.service.training.training_runs import TrainingRuns
from eztinker.service.validation import check_adam, check_metadata, check_name, check_seq_id, expiry
from eztinker.types import AdamParams, CheckpointKind, Datum, OperationKind, Record

SMALL_BATCH = 16
"""Most data that are checked on the event loop, which takes less time than handing them to a thread."""


class _RunEnded(Exception):
    """The run takes no more operations, and `error` says why."""

    def __init__(self, error: EZTinkerError) -> None:
        super().__init__()
        self.error = error


class SaveRequest(Record):
    """A checkpoint to write."""

    kind: CheckpointKind
    name: str | None
    """Name of the checkpoint; None for a snapshot behind one sampling client."""
    ttl_seconds: int | None = None
    overwrite: bool = False
    is_inflight: bool = False
    """Whether an unnamed save moves the sampling clients of earlier inflight saves forward."""
    user_metadata: dict[str, str] | None = None
    age_recipients: tuple[str, ...] = ()
    """Public keys that an export is encrypted for."""


class Training:
    """Checks numbered requests and submits them as operations of their runs."""

    def __init__(
        self, runs: TrainingRuns, lanes: RunLanes, saved: Checkpoints, recorded: RecordedSamples, clock: Clock
    ) -> None:
        self._runs = runs
        self._lanes = lanes
        self._saved = saved
        self._recorded = recorded
        self._reading_records = asyncio.Lock()
        """Lock that keeps the recorded samples of only one request at a time in memory."""
        self._clock = clock

    async def forward_backward(self, owner: str, request: ForwardBackwardRequest) -> str:
        """Accumulate the gradients of a batch, or only compute its loss; the future ends in ForwardBackwardOutput."""
        model = await self._runs.in_use(owner, request.model_id)
        op_id = new_op_id()
        used: set[str] = set()
        work: ForwardBackward | UserError
        try:
            await self._check(request, model)
            if reads_provenance(request):
                request, used = await self._with_records(owner, model, request)
            work = _forward_backward_command(op_id, request)
        except UserError as error:
            work = error
        now = self._clock.now()
        num_tokens = sum(len(datum.tokens) for datum in work.data) if isinstance(work, ForwardBackward) else 0
        plan = PassPlan(
            used=used_by_run(model, UsageKind.TRAINING, num_tokens, now),
            num_loss_tokens=_num_loss_tokens(work) if isinstance(work, ForwardBackward) else 0,
        )
        return await self._submit(
            model,
            op_id,
            request.seq_id,
            OperationKind.FORWARD_BACKWARD,
            work,
            plan,
            is_chunked=True,
            stored_with=(lambda db: recorded_samples.renew(db, used, now)) if used else None,
        )

    async def optim_step(self, owner: str, model_id: str, seq_id: int, adam: AdamParams | UserError) -> str:
        """Make one AdamW step with the accumulated gradients; the future ends in metrics."""
        model = await self._runs.in_use(owner, model_id)
        op_id = new_op_id()
        work: OptimStep | UserError
        try:
            work = OptimStep(op_id=op_id, model_id=model_id, adam=check_adam(_granted(adam)))
        except UserError as error:
            work = error
        return await self._submit(model, op_id, seq_id, OperationKind.OPTIM_STEP, work, StepPlan(model_id=model_id))

    async def save(self, owner: str, model_id: str, seq_id: int, save_as: SaveRequest | UserError) -> str:
        """Write a checkpoint; the future ends in its path or, for an unnamed one, in a sampling session."""
        model = await self._runs.in_use(owner, model_id)
        op_id = new_op_id()
        kind = OperationKind.SAVE_WEIGHTS
        try:
            request = _granted(save_as)
            kind = _SAVE_KINDS[request.kind]
            checkpoint = await self._planned(model, request)
        except UserError as error:
            return await self._submit(model, op_id, seq_id, kind, error, None)
        work = SaveCheckpoint(
            op_id=op_id,
            model_id=model_id,
            kind=checkpoint.kind,
            directory=str(self._saved.directory(checkpoint.checkpoint_id)),
            tinker_path=tinker_path(checkpoint),
            age_recipients=request.age_recipients,
        )

        plan = SavePlan(
            kind=kind,
            checkpoint=checkpoint,
            overwrite=request.overwrite,
            session_id=model.session_id,
            base_model=model.base_model,
            inflight_seq_id=seq_id if request.is_inflight else None,
            used=used_by_run(model, UsageKind.CHECKPOINT, 1, checkpoint.created_at),
        )
        return await self._submit(model, op_id, seq_id, kind, work, plan)

    async def load(
        self, owner: str, model_id: str, seq_id: int, path: str, *, with_optimizer: bool, lender: str | None
    ) -> str:
        """Load a checkpoint into an existing run; the future ends in its path."""
        model = await self._runs.in_use(owner, model_id)
        op_id = new_op_id()
        work: LoadModel | EZTinkerError
        try:
            checkpoint, _ = await self._saved.loadable(owner, path, with_optimizer=with_optimizer, lender=lender)
            directory = str(self._saved.directory(checkpoint.checkpoint_id))
            work = LoadModel(op_id=op_id, model_id=model_id, directory=directory, with_optimizer=with_optimizer)
        except (UserError, CheckpointDamaged) as error:
            work = error
        plan = LoadPlan(model_id=model_id, path=path)
        return await self._submit(model, op_id, seq_id, OperationKind.LOAD_WEIGHTS, work, plan)

    async def refuse(self, owner: str, model_id: str, seq_id: int, kind: OperationKind, error: UserError) -> str:
        """Return a future that fails with `error`, for a numbered request of a run whose content cannot be read."""
        model = await self._runs.in_use(owner, model_id)
        return await self._submit(model, new_op_id(), seq_id, kind, error, None)

    async def _check(self, request: ForwardBackwardRequest, model: Model) -> None:
        """Check all of a batch but what it says of its source.

        Raises:
            UserError: it could not be read, or a loss cannot be computed of it.
        """
        if request.error is not None:
            raise request.error
        base_model = self._runs.base_model(model)
        if len(request.data) <= SMALL_BATCH:
            check_batch(request, base_model)
        else:
            await asyncio.to_thread(check_batch, request, base_model)

    async def _with_records(
        self, owner: str, model: Model, request: ForwardBackwardRequest
    ) -> tuple[ForwardBackwardRequest, set[str]]:
        """The request with its sampling logprobs, and the ids of the samples that they were recorded of.

        Raises:
            InvalidInput: it names no sequences, or others than were recorded.
        """
        async with self._reading_records:
            named = await self._recorded.named(owner, model.session_id, sequence_ids(request))
            found = await asyncio.to_thread(with_recorded_logprobs, request, named)
            return found, {record.op_id for record in named.values()}

    async def _planned(self, model: Model, request: SaveRequest) -> Checkpoint:
        """Make the row of a checkpoint that is about to be written.

        Raises:
            InvalidInput: its name, lifetime, metadata or recipients cannot be accepted.
            AlreadyExists: its name is taken.
        """
        check_metadata(request.user_metadata)
        if request.is_inflight and request.name is not None:
            raise InvalidInput("A save of kind 'inflight' has no path; leave one of the two out", field="kind")
        parse_recipients(request.age_recipients)
        now = self._clock.now()
        expires_at = expiry(request.ttl_seconds, now)
        if request.name is not None:
            check_name(request.name)
            if not request.overwrite and await self._saved.is_taken(model.model_id, request.kind, request.name):
                raise checkpoints.name_taken(model.model_id, request.kind, request.name)
        return Checkpoint(
            checkpoint_id=self._saved.new_id(),
            owner=model.owner,
            model_id=model.model_id,
            kind=request.kind,
            name=request.name,
            size_bytes=0,
            step=0,
            user_metadata=request.user_metadata,
            created_at=now,
            expires_at=expires_at,
        )

    async def _submit(
        self,
        model: Model,
        op_id: str,
        seq_id: int,
        kind: OperationKind,
        work: TrainingCommand | EZTinkerError,
        plan: Plan | None,
        *,
        is_chunked: bool = False,
        stored_with: Change | None = None,
    ) -> str:
        """Accept `work` with its plan or, without one, as the error that it is; returns the id of the future.

        Args:
            stored_with: rows to store together with the operation, if it is new and no error.
        """
        now = self._clock.now()
        owner, lane, seq_id = model.owner, model.model_id, check_seq_id(seq_id)

        def touch(db: Connection) -> None:
            if not models.touch(db, lane, now):
                raise _RunEnded(ended_error(db, owned(models.get(db, lane), owner, "training run")))
            if stored_with is not None:
                stored_with(db)

        operation = Operation(
            op_id=op_id,
            owner=owner,
            lane=lane,
            seq_id=seq_id,
            kind=kind,
            work=work,
            plan=plan,
            stored_with=touch,
            is_chunked=is_chunked,
        )
        if isinstance(work, EZTinkerError):
            return await self._lanes.submit(operation.refused(work))
        try:
            return await self._lanes.submit(operation)
        except _RunEnded as ended:
            return await self._lanes.submit(operation.refused(ended.error))


_SAVE_KINDS = {
    CheckpointKind.TRAINING: OperationKind.SAVE_WEIGHTS,
    CheckpointKind.SAMPLER: OperationKind.SAVE_WEIGHTS_FOR_SAMPLER,
    CheckpointKind.EXTERNAL: OperationKind.SAVE_WEIGHTS_EXTERNAL,
}


def _forward_backward_command(op_id: str, request: ForwardBackwardRequest) -> ForwardBackward:
    return ForwardBackward(
        op_id=op_id,
        model_id=request.model_id,
        data=request.data,
        loss_fn=request.loss_fn,
        loss_fn_config=request.loss_fn_config,
        forward_only=request.forward_only,
    )


def _num_loss_tokens(work: ForwardBackward) -> int:
    """Count the targets with a weight in the loss of a training pass; 0 for a forward pass."""
    return 0 if work.forward_only else sum(_num_counted(datum) for datum in work.data)


def _num_counted(datum: Datum) -> int:
    inputs = datum.loss_fn_inputs
    weights = inputs.get("weights", inputs.get("advantages", inputs["target_tokens"]))
    return int(np.count_nonzero(weights)) if weights.dtype == np.float32 else len(weights)


def _granted(value: Any) -> Any:
    """Return `value`, or raise the error that it is, where decoding has failed."""
    if isinstance(value, UserError):
        raise value
    return value
