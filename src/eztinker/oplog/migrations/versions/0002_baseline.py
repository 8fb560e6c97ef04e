"""The oldest schema that can be upgraded, with its version in the table `schema_version`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = None


def upgrade() -> None:
    """Create the tables of version 2 in an empty database; a log of that version has them already."""
    version = op.create_table("schema_version", sa.Column("version", sa.Integer, primary_key=True))
    op.bulk_insert(version, [{"version": 2}])
    op.create_table(
        "sessions",
        sa.Column("session_id", sa.String, primary_key=True),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("idempotency_key", sa.String),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("tags", sa.JSON, nullable=False),
        sa.Column("user_metadata", sa.JSON, nullable=False),
        sa.Column("sdk_version", sa.String, nullable=False),
        sa.Column("project_id", sa.String),
        sa.Column("display_name", sa.String),
        sa.Column("end_reason", sa.String),
        sa.Column("end_detail", sa.String),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("ended_at", sa.DateTime),
        sa.UniqueConstraint("owner", "idempotency_key"),
    )
    op.create_table(
        "models",
        sa.Column("model_id", sa.String, primary_key=True),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("session_id", sa.String, sa.ForeignKey("sessions.session_id"), nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("base_model", sa.String, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("train_attn", sa.Boolean, nullable=False),
        sa.Column("train_mlp", sa.Boolean, nullable=False),
        sa.Column("train_unembed", sa.Boolean, nullable=False),
        sa.Column("user_metadata", sa.JSON),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("last_request_at", sa.DateTime, nullable=False),
    )
    op.create_index("models_by_session", "models", ["session_id"])
    op.create_index("models_by_owner", "models", ["owner", "created_at"])
    op.create_table(
        "checkpoints",
        sa.Column("checkpoint_id", sa.String, primary_key=True),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("model_id", sa.String, sa.ForeignKey("models.model_id"), nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("name", sa.String),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("user_metadata", sa.JSON),
        sa.Column("is_public", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("expires_at", sa.DateTime),
        sa.Column("removed_at", sa.DateTime),
    )
    op.create_index("checkpoints_by_owner", "checkpoints", ["owner", "created_at"])
    op.create_index(
        "one_live_checkpoint_per_name",
        "checkpoints",
        ["model_id", "kind", "name"],
        unique=True,
        sqlite_where=sa.text("removed_at IS NULL"),
        postgresql_where=sa.text("removed_at IS NULL"),
    )
    op.create_table(
        "sampling_sessions",
        sa.Column("sampling_session_id", sa.String, primary_key=True),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("session_id", sa.String, sa.ForeignKey("sessions.session_id"), nullable=False),
        sa.Column("seq_id", sa.BigInteger),
        sa.Column("base_model", sa.String, nullable=False),
        sa.Column("checkpoint_id", sa.String),
        sa.Column("inflight_model_id", sa.String),
        sa.Column("save_seq_id", sa.BigInteger),
        sa.Column("num_clones", sa.Integer, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.UniqueConstraint("session_id", "seq_id"),
    )
    op.create_index("sampling_sessions_by_inflight_model", "sampling_sessions", ["inflight_model_id", "save_seq_id"])
    op.create_table(
        "payloads",
        sa.Column("digest", sa.String, primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "operations",
        sa.Column("op_id", sa.String, primary_key=True),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("lane", sa.String, nullable=False),
        sa.Column("seq_id", sa.BigInteger),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("payload", sa.String, sa.ForeignKey("payloads.digest")),
        sa.Column("plan", sa.LargeBinary),
        sa.Column("epoch", sa.Integer),
        sa.Column("media_type", sa.String),
        sa.Column("result", sa.LargeBinary),
        sa.Column("error_category", sa.String),
        sa.Column("error_code", sa.String),
        sa.Column("error_message", sa.String),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("finished_at", sa.DateTime),
        sa.Column("completion", sa.BigInteger),
        sa.UniqueConstraint("lane", "seq_id"),
    )
    op.create_index("operations_by_completion", "operations", ["lane", "completion"])
    op.create_index("operations_by_status", "operations", ["status", "finished_at"])
    op.create_index("operations_by_payload", "operations", ["payload"])
    op.create_table(
        "snapshots",
        sa.Column("snapshot_id", sa.String, primary_key=True),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("model_id", sa.String, sa.ForeignKey("models.model_id"), nullable=False),
        sa.Column("seq_id", sa.BigInteger, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
    )
    op.create_index("snapshots_by_model", "snapshots", ["model_id", "seq_id"])
    op.create_table(
        "epochs",
        sa.Column("epoch", sa.Integer, primary_key=True),
        sa.Column("started_at", sa.DateTime, nullable=False),
    )
    op.create_table(
        "audit_entries",
        sa.Column("entry_id", sa.Integer, primary_key=True),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("event", sa.String, nullable=False),
        sa.Column("details", sa.JSON, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
    )
    op.create_index("audit_entries_by_owner", "audit_entries", ["owner", "created_at"])
    op.create_table(
        "usage",
        sa.Column("usage_id", sa.Integer, primary_key=True),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("hour", sa.DateTime, nullable=False),
        sa.Column("session_id", sa.String, nullable=False),
        sa.Column("model_id", sa.String),
        sa.Column("base_model", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
    )
    op.create_index("usage_by_owner", "usage", ["owner", "hour"])
