"""Alembic's folder: how the tables came to be what ``store.schema`` says they are."""
