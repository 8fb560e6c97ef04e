"""A step that no release has: it makes a table anew, fills a column row by row, and can be killed at every row."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from eztinker.failpoints import reach
from eztinker.oplog.schema import SCHEMA_VERSION

revision = str(SCHEMA_VERSION + 1)
down_revision = str(SCHEMA_VERSION)


def upgrade() -> None:
    op.add_column("epochs", sa.Column("note", sa.String))
    with op.batch_alter_table("sessions") as table:
        table.add_column(sa.Column("note", sa.String, nullable=False, server_default=""))
    with op.batch_alter_table("operations") as table:
        table.add_column(sa.Column("num_bytes", sa.Integer))
    connection = op.get_bind()
    for (op_id,) in connection.exec_driver_sql("SELECT op_id FROM operations").all():
        reach("migration.row")
        connection.exec_driver_sql("UPDATE operations SET num_bytes = length(result) WHERE op_id = ?", (op_id,))
