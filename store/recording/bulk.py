"""Writes many rows as tuples straight to the driver: a quarter of the time of Core's dicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Table


def insert_rows(
    connection: Connection,
    table: Table,
    rows: Sequence[tuple[Any, ...]],
    *,
    add: str | None = None,
    replace: Sequence[str] = (),
) -> None:
    """Insert ``rows``, each with a value for every column of ``table`` in its order.

    A row that exists already gets the value of the column ``add`` added to its own, and those of
    the columns ``replace`` in place of its own.
    """
    if not rows:
        return
    preparer = connection.dialect.identifier_preparer
    columns = ", ".join(preparer.format_column(column) for column in table.columns)
    placeholders = ", ".join([_placeholder(connection)] * len(table.columns))
    name = preparer.format_table(table)
    statement = f"INSERT INTO {name} ({columns}) VALUES ({placeholders})"  # noqa: S608
    sets = [f"{column} = excluded.{column}" for column in map(preparer.quote, replace)]
    if add is not None:
        column = preparer.format_column(table.c[add])
        sets.append(f"{column} = {name}.{column} + excluded.{column}")
    if sets:
        keys = ", ".join(preparer.format_column(key) for key in table.primary_key)
        statement += f" ON CONFLICT ({keys}) DO UPDATE SET {', '.join(sets)}"
    connection.exec_driver_sql(statement, list(rows))


def update_rows(
    connection: Connection,
    table: Table,
    names: Sequence[str],
    key: str,
    rows: Sequence[tuple[Any, ...]],
) -> None:
    """Set the columns ``names`` where ``key`` matches; each row has the values in that order."""
    if not rows:
        return
    preparer = connection.dialect.identifier_preparer
    placeholder = _placeholder(connection)
    sets = ", ".join(f"{preparer.format_column(table.c[name])} = {placeholder}" for name in names)
    match = f"{preparer.format_column(table.c[key])} = {placeholder}"
    connection.exec_driver_sql(
        f"UPDATE {preparer.format_table(table)} SET {sets} WHERE {match}",  # noqa: S608
        list(rows),
    )


def _placeholder(connection: Connection) -> str:
    return "?" if connection.dialect.paramstyle == "qmark" else "%s"
