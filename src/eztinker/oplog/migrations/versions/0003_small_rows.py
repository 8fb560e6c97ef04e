"""Settled operations lose their plans, and the version is kept in Alembic's table alone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "3"
down_revision = "2"

_operations = sa.table("operations", sa.column("status", sa.String), sa.column("plan", sa.LargeBinary))


def upgrade() -> None:
    op.drop_table("schema_version")
    op.drop_index("operations_by_payload", "operations")
    is_kept = sa.text("payload IS NOT NULL")
    op.create_index("operations_by_payload", "operations", ["payload"], sqlite_where=is_kept, postgresql_where=is_kept)
    is_over = (_operations.c.status != "pending") & _operations.c.plan.is_not(None)
    op.execute(_operations.update().where(is_over).values(plan=b""))
