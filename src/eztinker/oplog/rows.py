"""The rows of the operation log as records, one per table."""

from __future__ import annotations

import zlib
from datetime import datetime
from enum import StrEnum
from typing import Any

from eztinker.errors import Category, EZTinkerError
from eztinker.types import CheckpointKind, OperationKind, Record

DEFAULT_PROJECT = "default"
"""Project of sessions that name none."""


class SessionStatus(StrEnum):
    ACTIVE = "active"
    FINISHED = "finished"
    """The client has closed the session."""
    EXPIRED = "expired"
    """The client has stopped sending heartbeats."""


class Session(Record, kw_only=True):
    """One run of a client program, to which everything that it creates belongs."""

    session_id: str
    owner: str
    idempotency_key: str | None
    status: SessionStatus = SessionStatus.ACTIVE
    tags: list[str]
    user_metadata: dict[str, Any]
    sdk_version: str
    project_id: str | None = None
    display_name: str | None = None
    end_reason: str | None = None
    end_detail: str | None = None
    created_at: datetime
    ended_at: datetime | None = None


class ModelStatus(StrEnum):
    ACTIVE = "active"
    FAILED = "failed"
    """The creation of the model failed."""
    LOST = "lost"
    """The engine that held the model died, and its state could not be recovered."""
    UNLOADED = "unloaded"
    ARCHIVE = "archive"
    """The model exists only to hold copies of checkpoints, and is never in an engine."""


class Model(Record, kw_only=True):
    """A training run as the Tinker API knows it: one adapter over a base model.

    A run in the sense of users may consist of several models, each of which continues from a checkpoint of the last.
    """

    model_id: str
    owner: str
    session_id: str
    status: ModelStatus = ModelStatus.ACTIVE
    base_model: str
    rank: int
    train_attn: bool
    train_mlp: bool
    train_unembed: bool
    user_metadata: dict[str, Any] | None
    created_at: datetime
    last_request_at: datetime
    run_id: str | None = None
    """Run that the model belongs to; when a model is stored with None, it begins a run."""
    name: str | None = None
    """The user's name for the run, which is kept, as is the note, with the first model of the run."""
    note: str | None = None
    num_steps: int = 0
    """Optimizer steps behind the model's weights, including those of a checkpoint it was loaded from."""
    last_loss: float | None = None
    """Loss of the model's last training batch, per token with a nonzero weight, in nats."""


class Checkpoint(Record, kw_only=True):
    """A finished checkpoint; `checkpoint_id` is also the name of its directory."""

    checkpoint_id: str
    owner: str
    model_id: str
    kind: CheckpointKind
    name: str | None
    """Name within the run; None for the checkpoint behind one sampling client, which is never listed."""
    size_bytes: int
    step: int
    user_metadata: dict[str, str] | None
    is_public: bool = False
    """Whether every key of the server may read it; only its owner may change it."""
    created_at: datetime
    expires_at: datetime | None
    removed_at: datetime | None = None
    """Time at which the checkpoint was deleted, replaced or expired; its directory is deleted a little later."""

    def has_expired(self, now: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= now


class SamplingSession(Record, kw_only=True):
    """The weights that a sampling client samples from: a base model, or a sampler checkpoint over it."""

    sampling_session_id: str
    owner: str
    session_id: str
    seq_id: int | None
    """The client's number for the sampling session; None if a save created it, which has its own number."""
    base_model: str
    checkpoint_id: str | None
    inflight_model_id: str | None = None
    """Model whose newest inflight save to sample from; None to sample from `checkpoint_id` for good."""
    save_seq_id: int | None = None
    """Number of the inflight save that created the sampling session."""
    num_clones: int = 0
    """Number of copies of the client that have joined from other processes."""
    created_at: datetime


class OperationStatus(StrEnum):
    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"
    LOST = "lost"
    """The operation was never finished, and the client should submit it again."""
    EXPIRED = "expired"
    """The operation was done, but its result has been dropped: it was fetched, or its retention time was over."""


class Failure(Record):
    """The reason why an operation failed, as the client will read it."""

    category: Category
    code: str
    message: str

    @classmethod
    def of(cls, error: EZTinkerError) -> Failure:
        return cls(category=error.category, code=error.code, message=error.message)


class OperationRow(Record, kw_only=True):
    """One accepted request and, once it is settled, its outcome. `op_id` is the client's future."""

    op_id: str
    owner: str
    lane: str
    """Id of the model or sampling session whose operations run in order with this one."""
    seq_id: int | None
    """The client's number for the operation within the lane; a retry has the same number."""
    kind: OperationKind
    status: OperationStatus = OperationStatus.PENDING
    payload: str | None = None
    """Digest of the command, which is kept while recovery may need it."""
    plan: bytes | None = None
    """Encoded plan for settling the outcome, empty once it is settled; None for samples and refused operations."""
    epoch: int | None = None
    """Epoch of the engine that computed the outcome."""
    media_type: str | None = None
    result: bytes | None = None
    error_category: Category | None = None
    error_code: str | None = None
    error_message: str | None = None
    created_at: datetime
    finished_at: datetime | None = None
    completion: int | None = None
    """Number of the outcome within the lane, from 1 in the order in which outcomes were stored."""
    plan_checksum: int | None = None
    """CRC-32 of the plan; None in rows from before checksums."""
    result_checksum: int | None = None

    @property
    def is_plan_whole(self) -> bool:
        return _is_whole(self.plan, self.plan_checksum)

    @property
    def is_result_whole(self) -> bool:
        return _is_whole(self.result, self.result_checksum)


def checksum(content: bytes) -> int:
    """CRC-32 of `content`, to detect damage on disk."""
    return zlib.crc32(content)


def _is_whole(content: bytes | None, expected: int | None) -> bool:
    return content is None or expected is None or checksum(content) == expected


class SettledOperation(Record):
    """A settled operation without the content of its result."""

    op_id: str
    completion: int
    status: OperationStatus
    num_bytes: int | None
    """Size of the result; None if there is none."""

    @property
    def has_result(self) -> bool:
        return self.status is OperationStatus.DONE


class Snapshot(Record, kw_only=True):
    """The whole state of a run after one of its operations; `snapshot_id` is also the name of its directory."""

    snapshot_id: str
    owner: str
    model_id: str
    seq_id: int
    """Number of the last operation that the snapshot includes."""
    size_bytes: int
    created_at: datetime


class AuditEntry(Record):
    """One event on an object of `owner`; the details say who caused it."""

    owner: str
    event: str
    """Name of the event, `<resource>_<action>`."""
    details: dict[str, Any]
    created_at: datetime


class RecordedSample(Record, kw_only=True):
    """A sample request whose sequences training data may name as their source."""

    op_id: str
    owner: str
    session_id: str
    num_bytes: int
    """Size of the prompt and all sequences together."""
    used_at: datetime
    """Time at which the sample was drawn or last named by a training request; it is kept for a while after that."""
    checksum: int
    """CRC-32 of the prompt."""
    prompt: bytes
    """Token ids, int32."""


class RecordedSequence(Record):
    """One completion of a recorded sample."""

    op_id: str
    place: int
    """Index among the completions of the request, from 0."""
    tokens: bytes
    """Token ids, int32."""
    logprobs: bytes
    """Log-probability of each token, float32, in nats, as sent to the client."""
    checksum: int
    """CRC-32 of the tokens followed by the logprobs."""


class Upload(Record, kw_only=True):
    """An adapter that a client uploads file by file."""

    upload_id: str
    """Id of the upload and name of the directory with the files received."""
    owner: str
    base_model: str
    rank: int
    train_attn: bool
    train_mlp: bool
    train_unembed: bool
    project_id: str | None
    tinker_path: str | None = None
    """Path of the checkpoint made from the upload; None while files may still arrive."""
    created_at: datetime
    expires_at: datetime


class UsageKind(StrEnum):
    """Kinds of usage, counted in tokens except for checkpoints."""

    TRAINING = "training"
    """Tokens in forward and backward passes."""
    PREFILL = "prefill"
    """Prompt tokens that were computed."""
    CACHED_PREFILL = "cached_prefill"
    """Prompt tokens that were found in the prefix cache."""
    SAMPLING = "sampling"
    """Tokens drawn."""
    CHECKPOINT = "checkpoint"
    """Checkpoints written."""


class Usage(Record):
    """One kind of usage of one run within one hour."""

    owner: str
    hour: datetime
    """Start of the hour."""
    session_id: str
    model_id: str | None
    """Model whose weights were used; None for a base model alone."""
    base_model: str
    kind: UsageKind
    amount: int
