"""Tables for recorded samples, which training requests name as their source, and for uploads of adapters."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "5"
down_revision = "4"


def upgrade() -> None:
    op.create_table(
        "recorded_samples",
        sa.Column("op_id", sa.String, primary_key=True),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("session_id", sa.String, sa.ForeignKey("sessions.session_id"), nullable=False),
        sa.Column("num_bytes", sa.BigInteger, nullable=False),
        sa.Column("used_at", sa.DateTime, nullable=False),
        sa.Column("checksum", sa.BigInteger, nullable=False),
        sa.Column("prompt", sa.LargeBinary, nullable=False),
    )
    op.create_index("recorded_samples_by_owner", "recorded_samples", ["owner", "used_at", "num_bytes"])
    op.create_index("recorded_samples_by_session", "recorded_samples", ["session_id"])
    op.create_index("recorded_samples_by_use", "recorded_samples", ["used_at"])
    op.create_table(
        "recorded_sequences",
        sa.Column("op_id", sa.String, sa.ForeignKey("recorded_samples.op_id"), primary_key=True),
        sa.Column("place", sa.Integer, primary_key=True),
        sa.Column("tokens", sa.LargeBinary, nullable=False),
        sa.Column("logprobs", sa.LargeBinary, nullable=False),
        sa.Column("checksum", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "uploads",
        sa.Column("upload_id", sa.String, primary_key=True),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("base_model", sa.String, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("train_attn", sa.Boolean, nullable=False),
        sa.Column("train_mlp", sa.Boolean, nullable=False),
        sa.Column("train_unembed", sa.Boolean, nullable=False),
        sa.Column("project_id", sa.String),
        sa.Column("tinker_path", sa.String),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("expires_at", sa.DateTime, nullable=False),
    )
    op.create_index("uploads_by_owner", "uploads", ["owner"])
    op.create_index("uploads_by_expiry", "uploads", ["expires_at"])
