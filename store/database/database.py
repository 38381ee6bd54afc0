"""Opening a store, and its two kinds of transaction: one that writes, many that read."""

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

from lineside.bus.errors import MissingExtra, SettingsError, StoreError, StoreUnavailable
from lineside.store.database import migrate, sqlite
from lineside.store.database.schema import head
from lineside.store.database.sqlite import WRITES

PATIENCE_SECONDS = 60.0
"""How long a rare writer (rename, delete) goes on asking for the lock."""
KNOWN_REVISION = migrate.KNOWN[-1]
"""The schema revision this Lineside makes."""
_AWAY = (sql.OperationalError, sql.InterfaceError, sql.InternalError, sql.TimeoutError)
_EXPECTED = "expected an SQLAlchemy URL of SQLite or PostgreSQL, such as sqlite:////path/store.db"


def open_store(url: str, *, create: bool = False) -> Engine:
    """The store at ``url``, ready for ``History`` and ``Writer``.

    With ``create`` a missing store is made and an older one is brought up to date; without, it must
    be there and current. SQLite on a network file system is warned of in the log.

    Raises:
        SettingsError: a URL that does not parse, or of neither SQLite nor PostgreSQL, or a folder
            that cannot be written.
        MissingExtra: a package for this kind of store is not installed.
        StoreError: it is missing, of another make, or damaged.
        StoreTooNew: it was written by a newer Lineside.
        StoreUnavailable: it is locked, its disk is full, or its server does not answer.
    """
    parsed = _parse(url)
    if parsed.drivername == "sqlite":
        try:
            sqlite.prepare(Path(parsed.database or ""), create)
        except (OSError, sqlite3.Error) as error:
            raise StoreUnavailable(shown(parsed), _cause(error)) from error
    engine = _engine(parsed)
    try:
        if create:
            with translated(engine.url), _begin_writing(engine, PATIENCE_SECONDS) as connection:
                migrate.upgrade(connection, shown(parsed))
                connection.commit()
        else:
            with reading(engine) as connection:
                migrate.check(connection, shown(parsed))
    except BaseException:
        engine.dispose()
        raise
    return engine


def revision(engine: Engine) -> str | None:
    """The schema revision of a store, None if it has none; the newest known is KNOWN_REVISION."""
    with reading(engine) as connection:
        return migrate.revision(connection)


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that sees the store as of one moment, and hinders no writer."""
    with translated(engine.url), engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection = connection.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
        yield connection


@contextmanager
def writing(engine: Engine, patience: float = PATIENCE_SECONDS) -> Iterator[tuple[Connection, int]]:
    """A transaction that writes, alone among all processes, and the revision it will make.

    Committed at the end of the block; rolled back if the block raises.

    Raises:
        StoreUnavailable: others kept it locked for ``patience`` seconds, the disk is full, or the
            server is away. Nothing was written, and trying again may help.
        StoreError: the database refused what was written.
    """
    with translated(engine.url), _begin_writing(engine, patience) as connection:
        if engine.dialect.name == "postgresql":
            milliseconds = max(1000, int(patience * 1000))
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {milliseconds}")
        found: int = connection.execute(select(head.c.revision).with_for_update()).scalar_one()
        connection.execute(update(head).values(revision=found + 1))
        yield connection, found + 1
        connection.commit()


@contextmanager
def unpooled(engine: Engine) -> Iterator[sqlite3.Connection]:
    """A SQLite connection of its own, outside any transaction, for what cannot run inside one."""
    with translated(engine.url):
        try:
            raw = sqlite3.connect(
                engine.url.database or "", timeout=sqlite.BUSY_SECONDS, isolation_level=None
            )
            with contextlib.closing(raw):
                yield raw
        except sqlite3.OperationalError as error:
            raise StoreUnavailable(shown(engine.url), _cause(error)) from error


@contextmanager
def translated(url: URL) -> Iterator[None]:
    """SQLAlchemy's errors leave as ours."""
    try:
        yield
    except _AWAY as error:
        raise StoreUnavailable(shown(url), _cause(error)) from error
    except sql.SQLAlchemyError as error:
        raise StoreError(f"the store {shown(url)} cannot be used: {_cause(error)}") from error


def shown(url: URL) -> str:
    """``url`` as it may be shown: without its password."""
    return url.render_as_string(hide_password=True)


def _cause(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return " ".join(str(cause).split()) or type(cause).__name__


def _parse(text: str) -> URL:
    try:
        url = make_url(text)
    except (sql.ArgumentError, ValueError) as error:
        hidden = re.sub(r"//.*@", "//***@", text)
        raise SettingsError("LINESIDE_STORE", hidden, _EXPECTED) from error
    backend = url.drivername.partition("+")[0]
    if backend in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    file = url.database or ""
    if backend != "sqlite" or not file or file.startswith((":", "file:")) or url.query:
        raise SettingsError("LINESIDE_STORE", shown(url), _EXPECTED)
    # As it stands there: SQLAlchemy 2.1 reads escapes in it, 2.0 does not, and a path has none.
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
def _begin_writing(engine: Engine, patience: float) -> Iterator[Connection]:
    until = time.monotonic() + patience
    while True:
        connection = engine.connect().execution_options(**{WRITES: True})
        try:
            connection.begin()
            break
        except sql.OperationalError as error:
            connection.close()
            if "locked" not in str(error.orig) or time.monotonic() > until:
                raise
    try:
        yield connection
    finally:
        connection.close()
