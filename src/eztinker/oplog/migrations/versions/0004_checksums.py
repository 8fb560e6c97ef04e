"""Plans and results get checksums; rows stored before have none and are read unchecked."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "4"
down_revision = "3"


def upgrade() -> None:
    for column in ("plan_checksum", "result_checksum"):
        op.add_column("operations", sa.Column(column, sa.BigInteger))
