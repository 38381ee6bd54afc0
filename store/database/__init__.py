"""Opens the store: engine, tables, migrations and values. The rest of the store imports it."""

from lineside.store import require_database

require_database()
