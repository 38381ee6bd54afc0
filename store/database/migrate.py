"""Bringing a store's tables to this version with Alembic, and telling which version it has."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from lineside.bus.errors import StoreError, StoreTooNew

VERSION_TABLE = "lineside_version"
REVISIONS = ("0001", "0002", "0003")
"""Every schema revision this Lineside knows, oldest first."""
_UPGRADE_LOCK_ID = 0x4C494E45  # "LINE"


def check_revision(connection: Connection, url: str) -> None:
    """Return if the store is at the newest revision this Lineside knows.

    Raises:
        StoreTooNew: it is at a revision unknown here.
        StoreError: it is older, or no store of ours.
    """
    found = revision(connection)
    if found is None:
        raise StoreError(
            f"{url} holds no run history: start one with `lineside up`, "
            "or set LINESIDE_STORE to where it is"
        )
    if found not in REVISIONS:
        raise StoreTooNew(url, found, REVISIONS[-1])
    if found != REVISIONS[-1]:
        raise StoreError(
            f"the store {url} has the older schema revision {found}: "
            "`lineside up` or `lineside recorder` brings it up to date"
        )


def upgrade(connection: Connection, url: str) -> None:
    """Make the tables, or bring them up to date, inside the caller's transaction.

    Raises:
        StoreTooNew: the store is at a revision unknown here.
        StoreError: the database holds somebody else's tables.
    """
    if connection.dialect.name == "postgresql":
        # Two processes must not make the tables at once; in SQLite the transaction sees to that.
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_UPGRADE_LOCK_ID})")
    found = revision(connection)
    if found == REVISIONS[-1]:
        return
    if found is not None and found not in REVISIONS:
        raise StoreTooNew(url, found, REVISIONS[-1])
    tables = inspect(connection).get_table_names()
    if found is None and tables:
        raise StoreError(
            f"{url} holds tables that are not Lineside's ({', '.join(sorted(tables)[:3])}): "
            "set LINESIDE_STORE to a database of its own"
        )
    # A fifth of a second to import, and needed once in a store's life.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def revision(connection: Connection) -> str | None:
    """The store's schema revision; None if it has none."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found: str | None = connection.execute(
        text(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608 - our own constant
    ).scalar()
    return found
