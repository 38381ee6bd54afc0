"""How many records of the journal lie after an offset, and for how long."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from lineside.bus.broker.storage import sqlite_journal
from lineside.bus.broker.storage.journal import Write
from lineside.bus.broker.storage.sqlite_journal import SqliteJournal
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import MAX_RECORDS

A, B = Stream("a", "rank0", "x"), Stream("b", "rank0", "x")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def append(journal: SqliteJournal, records: int) -> None:
    journal.append([Write(A, journal.next_seq(A), records, b"blob")], {})


def test_the_records_after_an_offset_are_counted(path: Path) -> None:
    journal = SqliteJournal(path)
    for _ in range(3):
        at = journal.next_seq(A)
        journal.append([Write(A, at, 5, b"five"), Write(A, at + 5, 2, None)], {})
    assert [journal.backlog(after)[0] for after in range(8)] == [21, 16, 14, 9, 7, 2, 0, 0]
    journal.append([Write(B, 0, 100, b"last")], {}, expire_before=4)
    journal.close()
    journal = SqliteJournal(path)
    assert [journal.backlog(after)[0] for after in range(8)] == [109] * 4 + [107, 102, 100, 0]
    assert 0 <= journal.backlog(0)[1] < 60
    assert journal.backlog(7) == (0, 0.0)
    journal.close()


def test_records_of_before_they_were_counted_are_not_known(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_journal, "_COUNTED_ENTRIES", 3)
    journal = SqliteJournal(path)
    for _ in range(10):
        append(journal, 1)
    journal.close()
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE commits")
    db.close()
    journal = SqliteJournal(path)
    append(journal, 1)
    assert [journal.backlog(after)[0] for after in (6, 7, 10)] == [0, 4, 1]
    journal.close()


def test_gaps_of_any_size_can_be_counted(path: Path) -> None:
    journal = SqliteJournal(path)
    largest = (1 << 63) - 1
    journal.append([Write(A, 0, largest, None), Write(B, 0, largest, None)], {})
    journal.append([Write(Stream("c", "rank0", "x"), 0, 1, b"one")], {})
    journal.close()
    journal = SqliteJournal(path)
    assert journal.backlog(0)[0] == 2 * MAX_RECORDS + 1
    journal.close()
