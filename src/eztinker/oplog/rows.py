"""The rows of the operation log as records, one per table."""

from __future__ import annotations

import zlib
from datetime import datetime
from enum import StrEnum
from typing import Any

from eztinker.errors import Category, EZTinkerError
from eztinker.types import CheckpointKind, OperationKind, Record

DEFAULT_PROJECT = "default"
"""Where the sessions are that name no project."""


class SessionStatus(StrEnum):
    ACTIVE = "active"
    FINISHED = "finished"
    """The client said goodbye."""
    EXPIRED = "expired"
    """The client fell silent."""


class Session(Record, kw_only=True):
    """One run of a client program; everything it creates hangs on it."""

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
    """Its creation failed."""
    LOST = "lost"
    """The engine that held it died, and its state could not be brought back."""
    UNLOADED = "unloaded"
    ARCHIVE = "archive"
    """Made to hold a copy of a checkpoint; never in an engine."""


class Model(Record, kw_only=True):
    """A training run as the Tinker API knows it: one adapter over a base model.

    What users call a run may be several of these, each of which goes on from a checkpoint of the one before.
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
    """The run it belongs to; None becomes one of its own when it is stored."""
    name: str | None = None
    """The user's name for the run; this and the note are kept with the model that the run began as."""
    note: str | None = None
    num_steps: int = 0
    """Optimizer steps behind its weights, those before it was loaded included."""
    last_loss: float | None = None
    """Of the last batch it was trained on, per token that counted, in nats."""


class Checkpoint(Record, kw_only=True):
    """A finished checkpoint; `checkpoint_id` is also the name of its directory."""

    checkpoint_id: str
    owner: str
    model_id: str
    kind: CheckpointKind
    name: str | None
    """None for the snapshot behind one sampling client, which is never listed and cannot be named."""
    size_bytes: int
    step: int
    user_metadata: dict[str, str] | None
    is_public: bool = False
    """Whether every key of the server may read it; only its owner may change it."""
    created_at: datetime
    expires_at: datetime | None
    removed_at: datetime | None = None
    """Set when it was deleted, replaced or expired; its directory goes a little later."""

    def has_expired(self, now: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= now


class SamplingSession(Record, kw_only=True):
    """What a sampling client samples from: a base model, or a sampler checkpoint over it."""

    sampling_session_id: str
    owner: str
    session_id: str
    seq_id: int | None
    """The client's number for it; None when it came with a save, which has its own number."""
    base_model: str
    checkpoint_id: str | None
    inflight_model_id: str | None = None
    """The run whose newest inflight save it samples from; None: from its own checkpoint for good."""
    save_seq_id: int | None = None
    """The number of the inflight save it came with."""
    num_clones: int = 0
    """Copies of its client that have joined from other processes."""
    created_at: datetime


class OperationStatus(StrEnum):
    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"
    LOST = "lost"
    """Never finished, and the client does best to submit it again."""
    EXPIRED = "expired"
    """Done, but its result was dropped: the client had fetched it, or the retention time was over."""


class Failure(Record):
    """Why an operation failed, as the client will read it."""

    category: Category
    code: str
    message: str

    @classmethod
    def of(cls, error: EZTinkerError) -> Failure:
        return cls(category=error.category, code=error.code, message=error.message)


class OperationRow(Record, kw_only=True):
    """One accepted request and, once there, its outcome. `op_id` is the id of the client's future."""

    op_id: str
    owner: str
    lane: str
    """The model or sampling session it belongs to."""
    seq_id: int | None
    """The client's number for it within the lane; a repeat of it is the same operation."""
    kind: OperationKind
    status: OperationStatus = OperationStatus.PENDING
    payload: str | None = None
    """Digest of the command, kept while recovering the run may need it."""
    plan: bytes | None = None
    """What the outcome is to be made into, empty once that is done; None for a sample and for what was refused at
    once."""
    epoch: int | None = None
    """The engine that gave the outcome."""
    media_type: str | None = None
    result: bytes | None = None
    error_category: Category | None = None
    error_code: str | None = None
    error_message: str | None = None
    created_at: datetime
    finished_at: datetime | None = None
    completion: int | None = None
    """Its place among the outcomes of its lane, counted from 1 in the order in which they were stored."""
    plan_checksum: int | None = None
    """Of the plan as it was stored; None where an older program stored it."""
    result_checksum: int | None = None

    @property
    def is_plan_whole(self) -> bool:
        return _is_whole(self.plan, self.plan_checksum)

    @property
    def is_result_whole(self) -> bool:
        return _is_whole(self.result, self.result_checksum)


def checksum(content: bytes) -> int:
    """Tells whether the disk gives back what it was given."""
    return zlib.crc32(content)


def _is_whole(content: bytes | None, expected: int | None) -> bool:
    return content is None or expected is None or checksum(content) == expected


class Completion(Record):
    """An outcome as it is announced, without its content."""

    op_id: str
    completion: int
    status: OperationStatus
    num_bytes: int | None
    """Of the result, where there is one."""

    @property
    def has_result(self) -> bool:
        return self.status is OperationStatus.DONE


class Snapshot(Record, kw_only=True):
    """The whole state of a run after one of its operations; `snapshot_id` is also the name of its directory."""

    snapshot_id: str
    owner: str
    model_id: str
    seq_id: int
    """The last operation in it."""
    size_bytes: int
    created_at: datetime


class AuditEntry(Record):
    """Something that was done to an object of `owner`, by whom the details say."""

    owner: str
    event: str
    """`<resource>_<action>`."""
    details: dict[str, Any]
    created_at: datetime


class RecordedSample(Record, kw_only=True):
    """A sample request whose sequences training data may name as their source."""

    op_id: str
    owner: str
    session_id: str
    num_bytes: int
    """What the prompt and all sequences take."""
    used_at: datetime
    """When it was drawn or last named by a training request; it is kept for a while after that."""
    checksum: int
    """Of the prompt."""
    prompt: bytes
    """Token ids, int32."""


class RecordedSequence(Record):
    """One completion of a recorded sample."""

    op_id: str
    place: int
    """Among the completions of its request, from 0."""
    tokens: bytes
    """int32."""
    logprobs: bytes
    """float32, as the client has them."""
    checksum: int
    """Of tokens and logprobs, one behind the other."""


class Upload(Record, kw_only=True):
    """An adapter that a client uploads file by file."""

    upload_id: str
    """Also the name of the directory with the files that have come."""
    owner: str
    base_model: str
    rank: int
    train_attn: bool
    train_mlp: bool
    train_unembed: bool
    project_id: str | None
    tinker_path: str | None = None
    """Of the checkpoint that it has become; None while files may come."""
    created_at: datetime
    expires_at: datetime


class UsageKind(StrEnum):
    """What was used: tokens, except for checkpoints."""

    TRAINING = "training"
    """Read by forward and backward passes."""
    PREFILL = "prefill"
    """Prompt tokens that were computed."""
    CACHED_PREFILL = "cached_prefill"
    """Prompt tokens that were found in the prefix cache."""
    SAMPLING = "sampling"
    """Tokens drawn."""
    CHECKPOINT = "checkpoint"
    """Checkpoints written."""


class Usage(Record):
    """How much one run used of one thing within one hour."""

    owner: str
    hour: datetime
    """Its beginning."""
    session_id: str
    model_id: str | None
    """The training run whose weights did the work; None for a base model alone."""
    base_model: str
    kind: UsageKind
    amount: int
