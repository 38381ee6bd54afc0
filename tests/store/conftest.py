"""A real store for each test, in SQLite and in PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, make_url

from lineside.store.database.engine import open_store
from lineside.store.history.history import History
from lineside.store.recording.writer import Writer
from tests.store.database.postgres import Postgres, find_binaries
from tests.store.trainer import FakeJournal


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for this test session; without PostgreSQL, skip, but fail on CI."""
    with Postgres(find_binaries()) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL for a new store."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/home/store.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty SQLite store, to be copied."""
    path = tmp_path_factory.mktemp("made") / "store.db"
    open_store(f"sqlite:///{path}", create=True).dispose()
    return path


@pytest.fixture
def engine(store_url: str, empty_store: Path) -> Iterator[Engine]:
    """An empty store."""
    url = make_url(store_url)
    if url.drivername == "sqlite":
        path = Path(url.database or "")
        path.parent.mkdir(mode=0o700)
        shutil.copy(empty_store, path)
        made = open_store(store_url)
    else:
        made = open_store(store_url, create=True)
    yield made
    made.dispose()


@pytest.fixture
def sqlite_engine(tmp_path: Path) -> Iterator[Engine]:
    made = open_store(f"sqlite:///{tmp_path}/store.db", create=True)
    yield made
    made.dispose()


@pytest.fixture
def history(engine: Engine) -> History:
    return History(engine)


@pytest.fixture
def writer(engine: Engine) -> Writer:
    return Writer(engine)


@pytest.fixture
def journal(writer: Writer) -> FakeJournal:
    return FakeJournal(writer)
