"""Run by Alembic for every command; `upgrade.alembic_config` has said on what."""

from __future__ import annotations

from alembic import context

context.configure(**context.config.attributes["target"])
with context.begin_transaction():
    context.run_migrations()
