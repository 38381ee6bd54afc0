"""Opening a store: creation, refusals with their messages, and locks."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, inspect, select, text, update

from lineside.bus.errors import (
    SettingsError,
    StoreError,
    StoreTooNew,
    StoreUnavailable,
)
from lineside.store.database import migrate, sqlite
from lineside.store.database.engine import (
    LATEST_REVISION,
    open_store,
    raw_sqlite_connection,
    read_transaction,
    revision,
    write_transaction,
)
from lineside.store.database.tables import head, metadata
from lineside.store.history.history import History
from lineside.store.recording.writer import Writer
from tests.store.database.postgres import Postgres
from tests.store.trainer import FakeJournal, FakeProducer
from tests.support.waiting import DEADLINE


def test_a_store_is_made_once_and_opened_again(store_url: str) -> None:
    with pytest.raises(StoreError, match="LINESIDE_STORE"):
        open_store(store_url)
    for create in (True, True, False):
        engine = open_store(store_url, create=create)
        assert revision(engine) == LATEST_REVISION
        assert set(inspect(engine).get_table_names()) == {
            *metadata.tables,
            migrate.VERSION_TABLE,
        }
        assert History(engine).changes(0).revision == 0
        engine.dispose()


def test_several_processes_may_make_one_store_at_once(store_url: str) -> None:
    program = (
        "import sys\n"
        "from lineside.store.database.engine import open_store, revision\n"
        "print(revision(open_store(sys.argv[1], create=True)))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, store_url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=DEADLINE) for process in processes]
    assert [(out.strip(), err) for out, err in outputs] == [(LATEST_REVISION, "")] * 3


def test_the_sqlite_file_is_private_and_in_wal_mode(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "store.db"
    engine = open_store(f"sqlite:///{path}", create=True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    with raw_sqlite_connection(engine) as raw:
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert raw.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    engine.dispose()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "store.db",
        "nonsense://x",
        "mysql://host/db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///store.db",
        "sqlite:///file:x?mode=memory&uri=true",
        "postgresql://host:port/db",
    ],
)
def test_an_unusable_url_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="expected an SQLAlchemy URL of SQLite or PostgreSQL"):
        open_store(url, create=True)


def test_a_password_is_never_shown() -> None:
    url = "postgresql://me:secret@127.0.0.1:1/db?connect_timeout=1"
    with pytest.raises(StoreUnavailable, match="cannot be had now") as raised:
        open_store(url)
    assert "secret" not in str(raised.value)
    for wrong in ("mysql://me:secret@host/db", "postgresql://me:secret@host:port/db"):
        with pytest.raises(SettingsError) as refused:
            open_store(wrong)
        assert "secret" not in str(refused.value)


def test_a_missing_store_is_refused_without_create(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no store at .*nothing\.db: start one with"):
        open_store(f"sqlite:///{tmp_path}/nothing.db")
    assert not (tmp_path / "nothing.db").exists()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot be made"):
        open_store(f"sqlite:///{tmp_path}/file/store.db", create=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(SettingsError, match="not writable"):
        open_store(f"sqlite:///{tmp_path}/store.db", create=True)


@pytest.mark.parametrize("create", [True, False])
def test_a_file_that_is_no_database_is_refused_and_left_unchanged(
    tmp_path: Path, create: bool
) -> None:
    path = tmp_path / "store.db"
    path.write_text("this is a letter, not a database\n" * 100)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="not a database"):
        open_store(f"sqlite:///{path}", create=create)
    assert path.read_bytes() == before


def test_a_file_that_cannot_be_made_raises_store_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="File name too long"):
        open_store(f"sqlite:///{tmp_path}/{'x' * 300}.db", create=True)


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        open_store(f"sqlite:///{tmp_path}")
    with pytest.raises(StoreError):
        open_store(f"sqlite:///{tmp_path}", create=True)


def test_a_database_of_another_application_is_refused_and_left_unchanged(store_url: str) -> None:
    if store_url.startswith("sqlite"):
        Path(store_url.removeprefix("sqlite:///")).parent.mkdir()
    other = create_engine(store_url.replace("postgresql:", "postgresql+psycopg:"))
    with other.begin() as connection:
        connection.execute(text("CREATE TABLE theirs (id INTEGER)"))
    with pytest.raises(StoreError, match=r"tables that are not Lineside's \(theirs\)"):
        open_store(store_url, create=True)
    with pytest.raises(StoreError, match="holds no run history"):
        open_store(store_url)
    assert inspect(other).get_table_names() == ["theirs"]
    other.dispose()


def test_a_store_of_a_newer_version_is_refused(engine: Engine, store_url: str) -> None:
    _set_revision(engine, "9999")
    for create in (True, False):
        with pytest.raises(StoreTooNew, match="schema revision 9999, newer than this Lineside"):
            open_store(store_url, create=create)


def test_a_store_of_an_older_version_is_refused_without_create(
    engine: Engine, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "REVISIONS", (*migrate.REVISIONS, "9999"))
    with pytest.raises(StoreError, match=f"older schema revision {migrate.REVISIONS[-2]}"):
        open_store(store_url)


def _set_revision(engine: Engine, number: str) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE lineside_version SET version_num = :n"), {"n": number})


def test_a_network_file_system_causes_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "network_filesystem_type", lambda path: "nfs4")
    with caplog.at_level(logging.WARNING):
        open_store(f"sqlite:///{tmp_path}/store.db", create=True).dispose()
    assert "network file system (nfs4)" in caplog.text


def test_a_missing_package_raises_missing_extra() -> None:
    def ends_with(program: str) -> str:
        process = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
        return process.stderr

    hidden = "import sys; sys.modules[{!r}] = None\nimport lineside.store.database.engine as d\n"
    for module in ("database.engine", "history.history", "recording.writer"):
        without = hidden.format("sqlalchemy").replace("database.engine", module)
        assert "pip install 'lineside[server]'" in ends_with(without)
    psycopg = hidden.format("psycopg") + "d.open_store('postgresql://x/y')"
    assert "pip install 'lineside[postgres]'" in ends_with(psycopg)


def test_a_reader_sees_the_store_as_of_one_moment(engine: Engine) -> None:
    with read_transaction(engine) as connection:
        before = connection.execute(select(head.c.revision)).scalar_one()
        with write_transaction(engine):
            pass
        assert connection.execute(select(head.c.revision)).scalar_one() == before
    with read_transaction(engine) as connection:
        assert connection.execute(select(head.c.revision)).scalar_one() == before + 1


def test_a_write_transaction_that_raises_leaves_no_rows(engine: Engine) -> None:
    def fail() -> None:
        with write_transaction(engine) as (connection, _):
            connection.execute(update(head).values(revision=50))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert History(engine).changes(0).revision == 0


def test_writers_wait_for_each_other(engine: Engine) -> None:
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with write_transaction(engine):
            held.set()
            release.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    try:
        threading.Timer(0.5, release.set).start()
        with write_transaction(engine) as (_, number):
            assert number == 2
    finally:
        release.set()
        thread.join()


def test_a_writer_that_waits_beyond_its_timeout_raises_store_unavailable(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_SECONDS", 0.1)
    impatient = open_store(engine.url.render_as_string(hide_password=False))
    began = time.monotonic()
    with (
        write_transaction(engine),
        pytest.raises(StoreUnavailable, match="lock"),
        write_transaction(impatient, timeout=0.3),
    ):
        pass
    assert time.monotonic() - began < 10
    impatient.dispose()


def test_a_row_that_the_database_refuses_raises_store_error(engine: Engine) -> None:
    with (
        pytest.raises(StoreError, match="cannot be used") as raised,
        write_transaction(engine) as (c, _),
    ):
        c.execute(text("INSERT INTO head (id, revision) VALUES (1, 1)"))
    assert not isinstance(raised.value, StoreUnavailable)


def test_a_damaged_file_raises_store_error(tmp_path: Path, sqlite_engine: Engine) -> None:
    FakeJournal(Writer(sqlite_engine)).deliver(_busy_teller())
    sqlite_engine.dispose()
    path = tmp_path / "store.db"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)  # behind the schema
        file.write(os.urandom(size // 2))
    engine = open_store(f"sqlite:///{path}")
    with pytest.raises(StoreError):
        list(History(engine).iter_points("run"))
    engine.dispose()


def _busy_teller() -> FakeProducer:
    trainer = FakeProducer()
    trainer.begin()
    for step in range(2000):
        trainer.do_step(loss=float(step))
    return trainer


def test_a_replaced_store_is_noticed_at_once(tmp_path: Path, sqlite_engine: Engine) -> None:
    FakeJournal(Writer(sqlite_engine)).deliver(_busy_teller())
    history = History(sqlite_engine)
    assert len(history.runs().items) == 1
    for path in tmp_path.glob("store.db"):
        path.unlink()
    with pytest.raises(StoreUnavailable, match="unable to open"):
        history.runs()
    assert not (tmp_path / "store.db").exists()
    # The write-ahead log of the old store still exists.
    assert (tmp_path / "store.db-wal").exists()
    open_store(f"sqlite:///{tmp_path}/store.db", create=True).dispose()
    assert history.runs().items == ()


def test_a_path_with_odd_characters_is_a_path(tmp_path: Path) -> None:
    path = tmp_path / "a %41 é #1.db"
    engine = open_store(f"sqlite:///{path}", create=True)
    assert History(engine).runs().items == ()
    engine.dispose()
    assert path.is_file()


def test_a_raw_connection_that_cannot_be_opened_raises_store_unavailable(
    tmp_path: Path, sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_SECONDS", 0.1)
    with (
        pytest.raises(StoreUnavailable, match="locked"),
        raw_sqlite_connection(sqlite_engine) as raw,
    ):
        raw.execute("BEGIN IMMEDIATE")
    holder.close()


def test_a_server_that_goes_away_and_comes_back_is_used_again(postgres: Postgres) -> None:
    engine = open_store(postgres.new_database(), create=True)
    history, journal = History(engine), FakeJournal(Writer(engine))
    trainer = FakeProducer()
    trainer.begin()
    journal.deliver(trainer)
    batch = journal.batch(trainer.stream, [trainer.emit("train_end")])
    postgres.stop()
    try:
        with pytest.raises(StoreUnavailable):
            history.runs()
        with pytest.raises(StoreUnavailable):
            journal.writer.apply("journal", [batch])
    finally:
        postgres.start()
    journal.writer.apply("journal", [batch])
    assert history.run("run").status == "finished"
    engine.dispose()


def test_all_pooled_connections_together_have_a_small_page_cache(sqlite_engine: Engine) -> None:
    kibibytes = 0
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            connection = stack.enter_context(read_transaction(sqlite_engine))
            kibibytes -= connection.exec_driver_sql("PRAGMA cache_size").scalar_one()
    assert 0 < kibibytes <= 32_000
