"""Checks the schema revision of a store, and upgrades its tables with Alembic."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from lineside.bus.errors import StoreError, StoreTooNew

VERSION_TABLE = "lineside_version"
REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006")
"""The schema revisions that this Lineside knows, oldest first."""
_UPGRADE_LOCK_ID = 0x4C494E45  # "LINE"


def check_revision(connection: Connection, url: str) -> None:
    """Check that the store is at the newest revision that this Lineside knows.

    Raises:
        StoreTooNew: its revision is unknown here.
        StoreError: it is older, or not a store of Lineside.
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
    """Make the tables, or upgrade them, inside the caller's transaction.

    Raises:
        StoreTooNew: the revision of the store is unknown here.
        StoreError: the database holds the tables of another application.
    """
    if connection.dialect.name == "postgresql":
        # Two processes must not make the tables at once; in SQLite the transaction excludes that.
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
    # The import takes 0.2 s and is needed once in the life of a store.
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
