"""One process writes a journal, and others may read it meanwhile."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside.bus.broker.storage import sqlite_journal
from lineside.bus.broker.storage.journal import Write
from lineside.bus.broker.storage.sqlite_journal import SqliteJournal
from lineside.bus.errors import AddressInUse, JournalError
from lineside.bus.protocol.events import Stream

STREAM = Stream("a", "rank0", "x")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    opened = SqliteJournal(tmp_path / "journal.db")
    yield opened
    opened.close()


def fill(journal: SqliteJournal, count: int) -> None:
    for _ in range(count):
        journal.append([Write(STREAM, journal.next_seq(STREAM), 1, os.urandom(1000))], {})


def test_a_second_process_is_refused(journal: SqliteJournal) -> None:
    with pytest.raises(AddressInUse, match="another broker has it open"):
        SqliteJournal(journal.path)


def test_another_process_may_read_it_and_delays_no_append(journal: SqliteJournal) -> None:
    fill(journal, 10)
    with contextlib.closing(sqlite3.connect(journal.path, isolation_level=None)) as db:
        db.execute("BEGIN")
        assert db.execute("SELECT count(*) FROM entries").fetchone() == (10,)
        fill(journal, 2000)  # more than SQLite keeps in the write-ahead log without a checkpoint
        assert db.execute("SELECT count(*) FROM entries").fetchone() == (10,)
    assert journal.head == 2010


def test_a_broker_starts_where_a_file_of_shared_memory_cannot_be_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "journal.db-shm").mkdir()  # a full disk and network file systems do that too
    for count in (0, 3):
        with contextlib.closing(SqliteJournal(tmp_path / "journal.db")) as journal:
            assert journal.head == count
            fill(journal, 3)
    assert "cannot be shared" in caplog.text


def test_a_lock_of_another_program_is_an_error_that_passes(journal: SqliteJournal) -> None:
    with contextlib.closing(sqlite3.connect(journal.path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalError, match="not Lineside's writes to it"):
            fill(journal, 1)
    fill(journal, 1)
    assert journal.head == 1


def test_the_log_that_grew_while_another_process_read_is_cut_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_journal, "_LOG_BYTES", 100_000)
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM entries").fetchone()
    log_file = path.with_name("journal.db-wal")
    for seq in range(300):
        journal.append([Write(STREAM, seq, 1, b"x" * 50_000)], {})
    assert log_file.stat().st_size > 15_000_000
    reader.close()
    for seq in range(300, 310):
        journal.append([Write(STREAM, seq, 1, b"x")], {})
    assert log_file.stat().st_size < 2_000_000
    journal.close()
