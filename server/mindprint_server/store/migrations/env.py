"""Alembic runs this file for each command; the connection comes from `migrations.upgrade`."""

from __future__ import annotations

from alembic import context

from mindprint_server.store.tables import metadata

# Batch mode: SQLite can change a table only by copying it.
context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
