"""Alembic's entry point for every command; `upgrade.alembic_config` passes the connection to work on."""

from __future__ import annotations

from alembic import context

context.configure(**context.config.attributes["target"])
with context.begin_transaction():
    context.run_migrations()
