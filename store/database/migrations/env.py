"""Alembic runs this on the connection, inside a transaction, of ``store.database.migrate``."""

from __future__ import annotations

import logging

from alembic import context

from lineside.store.database.migrate import VERSION_TABLE
from lineside.store.database.tables import metadata

logging.getLogger("alembic").setLevel(logging.WARNING)

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
