"""Opens the store: engine, tables, migrations and values. The rest of the store imports it."""
