"""Run by Alembic; ``store.database.migrate`` hands over a connection inside a transaction."""

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
