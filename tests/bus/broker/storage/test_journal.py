"""What the journal promises: all or nothing, on disk, in order, and as small as it may be."""

from __future__ import annotations

import logging
import math
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside.bus.auth.refusal_log import Refusal
from lineside.bus.broker.maintenance import Maintenance
from lineside.bus.broker.storage import retention, sqlite_journal
from lineside.bus.broker.storage.append_buffer import AppendBuffer
from lineside.bus.broker.storage.journal import Cursor, Entry, Write
from lineside.bus.broker.storage.retention import Expiry, Retention
from lineside.bus.broker.storage.sqlite_journal import SqliteJournal
from lineside.bus.errors import JournalDamaged, JournalError
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.patterns import Patterns
from lineside.bus.protocol.wire import decode_event, record_bodies

A, B = Stream("a", "rank0", "x"), Stream("b", "rank0", "x")
ALL = Patterns()
DAY = 86_400.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[SqliteJournal]:
    opened = SqliteJournal(path)
    yield opened
    opened.close()


def fill(journal: SqliteJournal, count: int, size: int = 1000, stream: Stream = A) -> None:
    for _ in range(count):
        journal.append([Write(stream, journal.next_seq(stream), 1, os.urandom(size))], {})


def at(offset: int) -> Cursor:
    return Cursor(offset, offset)


def read(
    journal: SqliteJournal, after: int, limit: int, patterns: Patterns
) -> tuple[list[Entry], int]:
    return journal.scan(patterns).read(after, journal.head, limit, math.inf)


def test_what_was_appended_is_read_in_order_by_the_next_process(path: Path) -> None:
    journal = SqliteJournal(path)
    assert (journal.head, journal.first, journal.next_seq(A)) == (0, 1, 0)
    assert journal.append([Write(A, 0, 3, b"one"), Write(B, 0, 1, b"two")], {"r": at(1)}) == 1
    assert journal.append([Write(A, 3, 4, None)], {}) == 3
    name = journal.id
    journal.close()
    journal = SqliteJournal(path)
    assert (journal.id, journal.head, journal.first) == (name, 3, 1)
    assert (journal.next_seq(A), journal.next_seq(B)) == (7, 1)
    assert journal.cursors() == {"r": at(1)}
    entries = [Entry(1, A, 0, 3, b"one"), Entry(2, B, 0, 1, b"two"), Entry(3, A, 3, 4, None)]
    assert read(journal, 0, 1 << 20, ALL) == (entries, 3)
    assert read(journal, 2, 1 << 20, ALL) == (entries[2:], 3)
    assert read(journal, 3, 1 << 20, ALL) == ([], 3)
    journal.close()


def test_every_commit_is_synced_before_it_returns(journal: SqliteJournal) -> None:
    assert journal._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert journal._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_journals_have_different_ids(tmp_path: Path) -> None:
    journals = [SqliteJournal(tmp_path / name) for name in "ab"]
    assert journals[0].id != journals[1].id
    for journal in journals:
        journal.close()


def test_only_its_user_may_read_it(journal: SqliteJournal) -> None:
    fill(journal, 1)
    names = {path.name: path.stat().st_mode & 0o777 for path in journal.path.parent.iterdir()}
    files = ("journal.db", "journal.db-shm", "journal.db-wal", "journal.db.lock")
    assert names == dict.fromkeys(files, 0o600)


def test_a_read_is_bounded_but_never_empty(journal: SqliteJournal) -> None:
    fill(journal, 10)
    entries, reached = read(journal, 0, 2500, ALL)
    assert ([entry.offset for entry in entries], reached) == ([1, 2, 3], 3)
    entries, reached = read(journal, 3, 1, ALL)
    assert ([entry.offset for entry in entries], reached) == ([4], 4)


def test_streams_that_are_wanted_are_found_without_the_others(journal: SqliteJournal) -> None:
    for _ in range(100):
        fill(journal, 1, stream=A)
        fill(journal, 9, stream=B)
    fill(journal, 50, stream=B)
    patterns = Patterns(["a"])
    entries, reached = read(journal, 0, 1 << 20, patterns)
    assert [entry.offset for entry in entries] == [1 + 10 * i for i in range(64)]
    assert reached == 631
    entries, reached = read(journal, reached, 1 << 20, patterns)
    assert [entry.offset for entry in entries] == [1 + 10 * i for i in range(64, 100)]
    assert reached == journal.head == 1050
    entries, reached = read(journal, 0, 1, Patterns(["*/rank0"]))
    assert (len(entries), reached) == (1, 1)


def test_a_journal_of_a_newer_version_is_refused_and_left_alone(path: Path) -> None:
    SqliteJournal(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(JournalError, match=r"has version 99, newer than .* upgrade Lineside"):
        SqliteJournal(path)
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (99,)
    db.close()


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"cannot be used: No such file"):
        SqliteJournal(tmp_path / "no" / "journal.db")


def test_a_network_file_system_is_warned_of(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite_journal, "network_filesystem_type", lambda _: "nfs4")
    with caplog.at_level(logging.WARNING):
        SqliteJournal(path).close()
    assert "is on a network file system (nfs4)" in caplog.text


def test_a_failed_append_leaves_nothing(journal: SqliteJournal) -> None:
    journal.append([Write(A, 0, 1, b"one")], {})
    with pytest.raises(JournalError):
        # An offset SQLite refuses, in the middle of a transaction.
        journal.append([Write(B, 0, 1, b"new"), Write(A, 1, 1, object())], {"r": at(1)})  # type: ignore[arg-type]
    assert (journal.head, journal.next_seq(A), journal.next_seq(B)) == (1, 1, 0)
    assert journal.cursors() == {}
    journal.append([Write(B, 0, 1, b"two")], {})
    assert [entry.blob for entry in read(journal, 0, 1 << 20, ALL)[0]] == [b"one", b"two"]


def test_pages_that_sqlite_cannot_read_are_stepped_around(path: Path) -> None:
    journal = SqliteJournal(path)
    fill(journal, 200, size=10_000)
    journal.close()
    content = bytearray(path.read_bytes())
    page = 16_384
    middle = len(content) // page // 2
    content[middle * page : (middle + 1) * page] = b"\xff" * page
    path.write_bytes(content)
    journal = SqliteJournal(path)
    got: list[Entry] = []
    position = 0
    while position < journal.head:
        entries, position = read(journal, position, 1 << 20, ALL)
        got += entries
    assert [entry.offset for entry in got] == list(range(1, 201))
    lost = [entry for entry in got if entry.stream is None]
    assert 1 <= len(lost) <= 3
    assert all(entry == Entry(entry.offset, None, entry.offset, 1, None) for entry in lost)
    journal.close()


def test_a_journal_whose_schema_is_gone_is_damaged(path: Path) -> None:
    SqliteJournal(path).close()
    content = bytearray(path.read_bytes())
    content[100:2000] = b"\xff" * 1900
    path.write_bytes(content)
    with pytest.raises(JournalDamaged, match="move it aside"):
        SqliteJournal(path)


def test_nothing_goes_before_its_time(journal: SqliteJournal) -> None:
    retention_policy = Retention(journal, 7, 10 << 20)
    assert retention_policy.next_expiry(time.time()) is None
    fill(journal, 10)
    assert retention_policy.next_expiry(time.time() + 6 * DAY) is None


def test_what_is_too_old_goes_but_for_the_newest(journal: SqliteJournal) -> None:
    retention_policy = Retention(journal, 7, 10 << 20)
    fill(journal, 10)
    assert retention_policy.next_expiry(time.time() + 8 * DAY) == Expiry(1, 10, 9, 9000, ())


def test_what_a_durable_reader_needs_is_kept_longer_but_not_for_ever(
    journal: SqliteJournal,
) -> None:
    retention_policy = Retention(journal, 7, 10 << 20)
    fill(journal, 10)
    journal.append([], {"slow": at(4), "quick": at(10)})
    assert retention_policy.next_expiry(time.time() + 8 * DAY) == Expiry(1, 5, 4, 4000, ())
    assert retention_policy.next_expiry(time.time() + 29 * DAY) == Expiry(1, 10, 9, 9000, ("slow",))


def test_what_is_too_much_goes_a_step_at_a_time_and_the_file_stays_small(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_STEP_BYTES", 100_000)
    retention_policy = Retention(journal, 7, 1 << 20)
    for _ in range(20):
        fill(journal, 20, size=10_000)
        while (expiry := retention_policy.next_expiry(time.time())) is not None:
            assert expiry.size <= 120_000
            journal.append([], {}, expiry.end)
            assert journal.first == expiry.end
    used, _ = journal.size()
    assert 0.8 * (1 << 20) < used <= 1.1 * (1 << 20)
    journal.close()
    assert journal.path.stat().st_size < 2 << 20


def test_what_a_durable_reader_needs_may_be_larger_but_not_without_end(
    journal: SqliteJournal,
) -> None:
    retention_policy = Retention(journal, 7, 1 << 20)
    journal.append([], {"slow": at(0)})
    fill(journal, 300, size=8_000)
    assert retention_policy.next_expiry(time.time()) is None
    fill(journal, 300, size=8_000)
    expiry = retention_policy.next_expiry(time.time())
    assert expiry is not None
    assert expiry.readers == ("slow",)
    journal.append([], {}, expiry.end)
    assert journal.size()[0] == pytest.approx(4 << 20, rel=0.1)


def test_free_space_goes_back_to_the_file_system(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_SPARE_BYTES", 1 << 20)
    retention_policy = Retention(journal, 7, 10 << 20)
    fill(journal, 800, size=10_000)
    journal.append([], {}, journal.head)
    assert journal.size()[1] > 7_000_000
    for _ in range(10):
        retention_policy.release_space()
    assert journal.size()[1] <= 1 << 20
    journal.close()
    assert journal.path.stat().st_size < 2 << 20


def test_readers_that_are_gone_for_long_are_forgotten(journal: SqliteJournal) -> None:
    retention_policy = Retention(journal, 7, 10 << 20)
    journal.append([], {"gone": at(1), "here": at(1)})
    assert retention_policy.forget_idle_readers(time.time() + 27 * DAY, ()) == []
    assert retention_policy.forget_idle_readers(time.time() + 29 * DAY, ("here",)) == ["gone"]
    assert journal.cursors() == {"here": at(1)}


def test_expiry_is_an_event_in_the_same_commit(
    journal: SqliteJournal, caplog: pytest.LogCaptureFixture
) -> None:
    intake = AppendBuffer(journal)
    maintenance = Maintenance(intake, Retention(journal, 0, 10 << 20))
    assert maintenance.maintain(()) == 0
    fill(journal, 5)
    journal.append([], {"slow": at(1)})
    with caplog.at_level(logging.WARNING):
        before = maintenance.maintain(())
    assert before == 5
    assert "entries 1 to 4 expired before slow had them" in caplog.text
    [entry] = intake.commit({}, before)
    assert entry.stream is not None
    assert str(entry.stream).startswith("_bus/broker/")
    [body] = record_bodies(entry.blob or b"")
    event = decode_event(body)
    assert (event.seq, event.kind) == (0, "expired")
    assert event.data == {"first": 1, "end": 5, "records": 4, "bytes": 4000, "readers": ["slow"]}
    assert [entry.offset for entry in read(journal, 0, 1 << 20, ALL)[0]] == [5, 6]


def test_a_forgotten_reader_is_logged(
    journal: SqliteJournal, caplog: pytest.LogCaptureFixture
) -> None:
    maintenance = Maintenance(AppendBuffer(journal), Retention(journal, -1, 10 << 20))
    journal.append([], {"gone": at(0)})
    with caplog.at_level(logging.WARNING):
        maintenance.maintain(())
    assert "the reader 'gone' was away for too long" in caplog.text


def test_refusals_are_published_now_and_then_not_each(
    journal: SqliteJournal, caplog: pytest.LogCaptureFixture
) -> None:
    buffer = AppendBuffer(journal)
    maintenance = Maintenance(buffer, Retention(journal, 7, 10 << 20))
    with caplog.at_level(logging.WARNING):
        for second in range(30):
            maintenance.refusal_log.add(Refusal("", "", "protocol", "", "why"))
            maintenance.publish_refusals(float(second))
    assert caplog.text.count("broker: refused protocol by a client") == 1
    assert len(buffer.commit({})) == 1


def damage(path: Path, statement: str) -> None:
    db = sqlite3.connect(path)
    db.execute(statement)
    db.commit()
    db.close()


@pytest.mark.parametrize(
    "change",
    [
        "first_seq = first_seq + 1",
        "records = 1000000",
        "records = 'many'",
        "stream = 2",
        "stream = 77",
        "checksum = 1",
        "blob = NULL",
        "blob = 'text'",
    ],
)
def test_a_row_that_was_changed_on_disk_is_one_entry_lost(path: Path, change: str) -> None:
    journal = SqliteJournal(path)
    fill(journal, 5)
    fill(journal, 1, stream=B)
    journal.close()
    damage(path, f"UPDATE OR IGNORE entries SET {change} WHERE offset = 3")  # noqa: S608
    journal = SqliteJournal(path)
    entries, reached = read(journal, 0, 1 << 20, ALL)
    assert [(entry.offset, entry.stream) for entry in entries] == [
        (1, A),
        (2, A),
        (3, None),
        (4, A),
        (5, A),
        (6, B),
    ]
    assert reached == 6
    entries, _ = read(journal, 0, 1 << 20, Patterns(["b"]))
    assert (entries[-1].offset, entries[-1].stream) == (6, B)
    journal.close()


@pytest.mark.parametrize("change", ["next_seq = 9", "name = 'no stream'", "name = 5"])
def test_a_position_that_was_changed_on_disk_is_damage(path: Path, change: str) -> None:
    journal = SqliteJournal(path)
    fill(journal, 5)
    journal.close()
    damage(path, f"UPDATE streams SET {change}")  # noqa: S608
    with pytest.raises(JournalDamaged, match="stream"):
        SqliteJournal(path)


def test_a_row_that_is_gone_is_one_entry_lost(path: Path) -> None:
    journal = SqliteJournal(path)
    fill(journal, 3)
    journal.close()
    damage(path, "UPDATE entries SET checksum = 0 WHERE offset = 1")
    damage(path, "DELETE FROM entries WHERE offset = 2")
    journal = SqliteJournal(path)
    entries, _ = read(journal, 0, 1 << 20, ALL)
    assert [entry.stream for entry in entries] == [None, None, A]
    journal.close()


class Unreadable:
    """A connection on which every statement fails, as on a disk that answers no more."""

    def __init__(self, words: str) -> None:
        self._words = words

    def execute(self, *_: object) -> None:
        raise sqlite3.OperationalError(self._words)

    def close(self) -> None:
        pass


def test_what_cannot_be_read_just_now_is_no_gap(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(journal, 3)
    with monkeypatch.context() as patch:
        patch.setattr(journal, "_db", Unreadable("disk I/O error"))
        with pytest.raises(JournalError, match="disk I/O error"):
            read(journal, 0, 1 << 20, ALL)
    assert len(read(journal, 0, 1 << 20, ALL)[0]) == 3
