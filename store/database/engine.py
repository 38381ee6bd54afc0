"""Opens a store, and its two kinds of transaction: one writes, many read."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, make_url, select, update
from sqlalchemy import exc as sql

from lineside.bus.errors import (
    MissingExtra,
    SettingsError,
    StoreDamaged,
    StoreError,
    StoreUnavailable,
)
from lineside.store.database import migrate, sqlite
from lineside.store.database.sqlite import WRITE_OPTION
from lineside.store.database.tables import head

WRITE_TIMEOUT_SECONDS = 60.0
"""How long a rare writer (rename, delete) retries to get the lock."""
LATEST_REVISION = migrate.REVISIONS[-1]
"""The schema revision that this Lineside makes."""
_UNAVAILABLE_ERRORS = (
    sql.OperationalError,
    sql.InterfaceError,
    sql.InternalError,
    sql.TimeoutError,
)
_EXPECTED_URL = (
    "expected an SQLAlchemy URL of SQLite or PostgreSQL, with an absolute path, "
    "such as sqlite:////path/store.db"
)


def open_store(url: str, *, create: bool = False) -> Engine:
    """Open the store at ``url`` for ``History`` and ``Writer``.

    With ``create``, make a missing store and upgrade an older one; without it, the store must exist
    and be current. SQLite on a network file system causes a warning in the log.

    Raises:
        SettingsError: ``url`` does not parse or is not of SQLite or PostgreSQL, or its folder
            cannot be written.
        MissingExtra: a package for this kind of store is not installed.
        StoreError: the store is missing, or not Lineside's.
        StoreDamaged: SQLite cannot make sense of its file.
        StoreTooNew: a newer Lineside has written it.
        StoreUnavailable: it is locked, its disk is full, or its server does not answer.
    """
    parsed = _parse_url(url)
    if parsed.drivername == "sqlite":
        try:
            sqlite.prepare(Path(parsed.database or ""), create)
        except (OSError, sqlite3.Error) as error:
            raise StoreUnavailable(redact_url(parsed), _error_text(error)) from error
    engine = _engine(parsed)
    try:
        if create:
            with (
                translate_errors(engine.url),
                _begin_write(engine, WRITE_TIMEOUT_SECONDS) as connection,
            ):
                migrate.upgrade(connection, redact_url(parsed))
                connection.commit()
        else:
            with read_transaction(engine) as connection:
                migrate.check_revision(connection, redact_url(parsed))
    except BaseException:
        engine.dispose()
        raise
    return engine


def sqlite_path(url: str) -> Path | None:
    """The file of the store at ``url``; None for a store in PostgreSQL.

    Raises:
        SettingsError: ``url`` is invalid.
    """
    parsed = _parse_url(url)
    return Path(parsed.database or "") if parsed.drivername == "sqlite" else None


def revision(engine: Engine) -> str | None:
    """The schema revision of a store; None if it has none."""
    with read_transaction(engine) as connection:
        return migrate.revision(connection)


@contextmanager
def read_transaction(engine: Engine) -> Iterator[Connection]:
    """A transaction that reads the store as of one moment and blocks no writer."""
    with translate_errors(engine.url), engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection = connection.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
        yield connection


@contextmanager
def write_transaction(
    engine: Engine, timeout: float = WRITE_TIMEOUT_SECONDS
) -> Iterator[tuple[Connection, int]]:
    """A transaction that writes, one at a time among all processes, and its revision.

    It is committed at the end of the block and rolled back if the block raises.

    Raises:
        StoreUnavailable: the store was locked for ``timeout`` seconds, the disk is full, or the
            server does not answer. Nothing was written; a retry may succeed.
        StoreError: the database refused the rows.
    """
    with translate_errors(engine.url), _begin_write(engine, timeout) as connection:
        if engine.dialect.name == "postgresql":
            milliseconds = max(1000, int(timeout * 1000))
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {milliseconds}")
        found: int = connection.execute(select(head.c.revision).with_for_update()).scalar_one()
        connection.execute(update(head).values(revision=found + 1))
        yield connection, found + 1
        connection.commit()


@contextmanager
def raw_sqlite_connection(engine: Engine) -> Iterator[sqlite3.Connection]:
    """A new SQLite connection for statements that cannot run inside a transaction."""
    with translate_errors(engine.url):
        try:
            raw = sqlite3.connect(
                engine.url.database or "", timeout=sqlite.BUSY_TIMEOUT_SECONDS, isolation_level=None
            )
            with contextlib.closing(raw):
                yield raw
        except sqlite3.DatabaseError as error:
            if sqlite.is_damage(str(error)):
                raise StoreDamaged(redact_url(engine.url), _error_text(error)) from error
            if not isinstance(error, sqlite3.OperationalError):
                raise
            raise StoreUnavailable(redact_url(engine.url), _error_text(error)) from error


@contextmanager
def translate_errors(url: URL) -> Iterator[None]:
    """Raise errors of SQLAlchemy as store errors."""
    try:
        yield
    except _UNAVAILABLE_ERRORS as error:
        raise StoreUnavailable(redact_url(url), _error_text(error)) from error
    except sql.SQLAlchemyError as error:
        text = _error_text(error)
        if url.drivername == "sqlite" and sqlite.is_damage(text):
            raise StoreDamaged(redact_url(url), text) from error
        raise StoreError(f"the store {redact_url(url)} cannot be used: {text}") from error


def redact_url(url: URL) -> str:
    """``url`` as text, without its password."""
    return url.render_as_string(hide_password=True)


def _error_text(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return " ".join(str(cause).split()) or type(cause).__name__


def _parse_url(text: str) -> URL:
    try:
        url = make_url(text)
    except (sql.ArgumentError, ValueError) as error:
        hidden = re.sub(r"//.*@", "//***@", text)
        raise SettingsError("LINESIDE_STORE", hidden, _EXPECTED_URL) from error
    backend = url.drivername.partition("+")[0]
    if backend in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    file = url.database or ""
    # A relative path would be another file for each process that starts elsewhere.
    if backend != "sqlite" or not file.startswith("/") or url.query:
        raise SettingsError("LINESIDE_STORE", redact_url(url), _EXPECTED_URL)
    # The path as given: SQLAlchemy 2.1 would decode escapes in it, 2.0 would not.
    return url.set(drivername="sqlite", database=text.partition(":///")[2])


def _engine(url: URL) -> Engine:
    if url.drivername == "sqlite":
        return sqlite.make_engine(url)
    try:
        return create_engine(
            url, pool_pre_ping=True, max_overflow=60, connect_args={"connect_timeout": 5}
        )
    except ImportError as missing:
        raise MissingExtra("a store in PostgreSQL", "psycopg", "postgres") from missing


@contextmanager
def _begin_write(engine: Engine, timeout: float) -> Iterator[Connection]:
    deadline = time.monotonic() + timeout
    while True:
        connection = engine.connect().execution_options(**{WRITE_OPTION: True})
        try:
            connection.begin()
            break
        except sql.OperationalError as error:
            connection.close()
            if "locked" not in str(error.orig) or time.monotonic() > deadline:
                raise
    try:
        yield connection
    finally:
        connection.close()
