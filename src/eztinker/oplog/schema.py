"""Tables of the operation log in their present form. Every row has an owner; every time is UTC with its zone.

A change to them needs a migration: a file in `migrations/versions`, whose number becomes SCHEMA_VERSION.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
    false,
)

SCHEMA_VERSION = 6


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time. SQLite forgets zones, so UTC is written without one and read back with it."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"A stored time needs a zone, got {value!r}")
        try:
            return value.astimezone(UTC).replace(tzinfo=None)
        except OverflowError:
            # A moment of the first or last day of the calendar in a zone that puts it outside in UTC. No stored time
            # is there; a query that compares with it finds all earlier or all later.
            return datetime.min if value.year == 1 else datetime.max

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


metadata = MetaData()

sessions = Table(
    "sessions",
    metadata,
    Column("session_id", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("idempotency_key", String),
    Column("status", String, nullable=False),
    Column("tags", JSON, nullable=False),
    Column("user_metadata", JSON, nullable=False),
    Column("sdk_version", String, nullable=False),
    Column("project_id", String),
    Column("display_name", String),
    Column("end_reason", String),
    Column("end_detail", String),
    Column("created_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    UniqueConstraint("owner", "idempotency_key"),
)

models = Table(
    "models",
    metadata,
    Column("model_id", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("session_id", ForeignKey("sessions.session_id"), nullable=False),
    Column("status", String, nullable=False),
    Column("base_model", String, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("train_attn", Boolean, nullable=False),
    Column("train_mlp", Boolean, nullable=False),
    Column("train_unembed", Boolean, nullable=False),
    Column("user_metadata", JSON),
    Column("created_at", UtcDateTime, nullable=False),
    Column("last_request_at", UtcDateTime, nullable=False),
    Column("run_id", String),
    Column("name", String),
    Column("note", String),
    Column("num_steps", Integer, nullable=False, server_default="0"),
    Column("last_loss", Float),
    Index("models_by_session", "session_id"),
    Index("models_by_owner", "owner", "created_at"),
    Index("models_by_run", "run_id"),
)
Index(
    "one_run_per_name",
    models.c.owner,
    models.c.name,
    unique=True,
    sqlite_where=models.c.name.is_not(None),
    postgresql_where=models.c.name.is_not(None),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("checkpoint_id", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("model_id", ForeignKey("models.model_id"), nullable=False),
    Column("kind", String, nullable=False),
    Column("name", String),
    Column("size_bytes", BigInteger, nullable=False),
    Column("step", Integer, nullable=False),
    Column("user_metadata", JSON),
    Column("is_public", Boolean, nullable=False, server_default=false()),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("removed_at", UtcDateTime),
    Index("checkpoints_by_owner", "owner", "created_at"),
)
Index(
    "one_live_checkpoint_per_name",
    checkpoints.c.model_id,
    checkpoints.c.kind,
    checkpoints.c.name,
    unique=True,
    sqlite_where=checkpoints.c.removed_at.is_(None),
    postgresql_where=checkpoints.c.removed_at.is_(None),
)

sampling_sessions = Table(
    "sampling_sessions",
    metadata,
    Column("sampling_session_id", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("session_id", ForeignKey("sessions.session_id"), nullable=False),
    Column("seq_id", BigInteger),
    Column("base_model", String, nullable=False),
    Column("checkpoint_id", String),
    Column("inflight_model_id", String),
    Column("save_seq_id", BigInteger),
    Column("num_clones", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("session_id", "seq_id"),
    Index("sampling_sessions_by_inflight_model", "inflight_model_id", "save_seq_id"),
)

payloads = Table(
    "payloads",
    metadata,
    Column("digest", String, primary_key=True),
    Column("content", LargeBinary, nullable=False),
)

operations = Table(
    "operations",
    metadata,
    Column("op_id", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("lane", String, nullable=False),
    Column("seq_id", BigInteger),
    Column("kind", String, nullable=False),
    Column("status", String, nullable=False),
    Column("payload", ForeignKey("payloads.digest")),
    Column("plan", LargeBinary),
    Column("epoch", Integer),
    Column("media_type", String),
    Column("result", LargeBinary),
    Column("error_category", String),
    Column("error_code", String),
    Column("error_message", String),
    Column("created_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    Column("completion", BigInteger),
    Column("plan_checksum", BigInteger),
    Column("result_checksum", BigInteger),
    UniqueConstraint("lane", "seq_id"),
    Index("operations_by_completion", "lane", "completion"),
    Index("operations_by_status", "status", "finished_at"),
)
Index(
    "operations_by_payload",
    operations.c.payload,
    sqlite_where=operations.c.payload.is_not(None),
    postgresql_where=operations.c.payload.is_not(None),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("snapshot_id", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("model_id", ForeignKey("models.model_id"), nullable=False),
    Column("seq_id", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index("snapshots_by_model", "model_id", "seq_id"),
)

epochs = Table(
    "epochs",
    metadata,
    Column("epoch", Integer, primary_key=True),
    Column("started_at", UtcDateTime, nullable=False),
)

audit_entries = Table(
    "audit_entries",
    metadata,
    Column("entry_id", Integer, primary_key=True),
    Column("owner", String, nullable=False),
    Column("event", String, nullable=False),
    Column("details", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index("audit_entries_by_owner", "owner", "created_at"),
)

usage = Table(
    "usage",
    metadata,
    Column("usage_id", Integer, primary_key=True),
    Column("owner", String, nullable=False),
    Column("hour", UtcDateTime, nullable=False),
    Column("session_id", String, nullable=False),
    Column("model_id", String),
    Column("base_model", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Index("usage_by_owner", "owner", "hour"),
)

recorded_samples = Table(
    "recorded_samples",
    metadata,
    Column("op_id", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("session_id", ForeignKey("sessions.session_id"), nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("used_at", UtcDateTime, nullable=False),
    Column("checksum", BigInteger, nullable=False),
    Column("prompt", LargeBinary, nullable=False),
    Index("recorded_samples_by_owner", "owner", "used_at", "num_bytes"),
    Index("recorded_samples_by_session", "session_id"),
    Index("recorded_samples_by_use", "used_at"),
)

recorded_sequences = Table(
    "recorded_sequences",
    metadata,
    Column("op_id", ForeignKey("recorded_samples.op_id"), primary_key=True),
    Column("place", Integer, primary_key=True),
    Column("tokens", LargeBinary, nullable=False),
    Column("logprobs", LargeBinary, nullable=False),
    Column("checksum", BigInteger, nullable=False),
)

uploads = Table(
    "uploads",
    metadata,
    Column("upload_id", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("base_model", String, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("train_attn", Boolean, nullable=False),
    Column("train_mlp", Boolean, nullable=False),
    Column("train_unembed", Boolean, nullable=False),
    Column("project_id", String),
    Column("tinker_path", String),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Index("uploads_by_owner", "owner"),
    Index("uploads_by_expiry", "expires_at"),
)
