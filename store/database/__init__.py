"""Opens the store: engine, tables, migrations and values.

The other folders of the store import it.
"""
