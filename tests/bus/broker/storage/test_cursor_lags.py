"""How far durable readers are behind, read beside the broker that has the journal."""

from __future__ import annotations

import time
from pathlib import Path

from lineside.bus.broker.storage.cursor_lags import read_cursor_lags
from lineside.bus.broker.storage.journal import Cursor, Write
from lineside.bus.broker.storage.sqlite_journal import SqliteJournal
from lineside.bus.protocol.events import Stream

STREAM = Stream("run", "rank0", "a1")


def test_the_lag_of_each_durable_reader_is_that_of_its_first_unread_entry(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    assert read_cursor_lags(path) == []
    journal = SqliteJournal(path)
    try:
        for seq in range(3):
            journal.append([Write(STREAM, seq, 1, b"record")], {})
        journal.append([], {"late": Cursor(1, 1), "level": Cursor(3, 3)})
        late, level = read_cursor_lags(path)
    finally:
        journal.close()
    assert (late.name, level.name, level.waiting_since) == ("late", "level", None)
    assert 0 <= time.time() - level.moved_at < 60
    assert late.waiting_since is not None
    assert 0 <= time.time() - late.waiting_since < 60


def test_a_file_that_is_no_journal_has_no_readers(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_bytes(b"garbage" * 1000)
    assert read_cursor_lags(tmp_path / "journal.db") == []
