"""Alembic migrations: how the tables of ``store.database.tables`` were made."""
