"""Training runs get short ids, names, notes, and the number of steps and last loss of each Tinker model.

Existing models are grouped into runs by what their client wrote into `user_metadata`; their steps are counted from the
log, or taken from their newest checkpoint where that has more.
"""

from __future__ import annotations

import hashlib
import json

import sqlalchemy as sa
from alembic import context, op

revision = "6"
down_revision = "5"

_models = sa.table(
    "models",
    *(sa.column(name, sa.String) for name in ("model_id", "owner", "user_metadata", "run_id")),
    sa.column("num_steps", sa.Integer),
)
_NUM_STEPS = """
UPDATE models SET num_steps = (
    SELECT CASE WHEN done.steps > saved.steps THEN done.steps ELSE saved.steps END
      FROM (SELECT count(*) AS steps FROM operations
             WHERE lane = models.model_id AND kind = 'optim_step' AND status IN ('done', 'expired')) AS done,
           (SELECT coalesce(max(step), 0) AS steps FROM checkpoints
             WHERE model_id = models.model_id) AS saved)
"""


def upgrade() -> None:
    for name in ("run_id", "name", "note"):
        op.add_column("models", sa.Column(name, sa.String))
    op.add_column("models", sa.Column("num_steps", sa.Integer, nullable=False, server_default="0"))
    op.add_column("models", sa.Column("last_loss", sa.Float))
    op.create_index("models_by_run", "models", ["run_id"])
    is_named = sa.text("name IS NOT NULL")
    op.create_index(
        "one_run_per_name",
        "models",
        ["owner", "name"],
        unique=True,
        sqlite_where=is_named,
        postgresql_where=is_named,
    )
    op.execute(_NUM_STEPS)
    if not context.is_offline_mode():
        _sort_into_runs(op.get_bind())


def _sort_into_runs(db: sa.Connection) -> None:
    rows = db.execute(sa.select(_models.c.model_id, _models.c.owner, _models.c.user_metadata)).all()
    owners = {row.model_id: row.owner for row in rows}
    for row in rows:
        first = _first_model(row.user_metadata)
        is_own = first in owners and owners[first] == row.owner
        run_id = _run_id(first if is_own else row.model_id)
        db.execute(_models.update().where(_models.c.model_id == row.model_id).values(run_id=run_id))


def _first_model(user_metadata: str | None) -> str:
    """Id of the first model of the run, if the client has written it down as `run_<model id>`; else empty."""
    metadata = json.loads(user_metadata) if user_metadata else None
    named = metadata.get("eztinker_run") if isinstance(metadata, dict) else None
    return named.removeprefix("run_") if isinstance(named, str) else ""


def _run_id(model_id: str) -> str:
    return f"run_{hashlib.sha256(model_id.encode()).hexdigest()[:12]}"
