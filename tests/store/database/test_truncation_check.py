"""A store's file that lost pages is noticed, without harm to the connections of the process."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine

from lineside.store.database import sqlite
from lineside.store.recording.writer import Writer
from tests.store.trainer import FakeJournal, FakeProducer

COUNT = "SELECT count(*) FROM runs"


@pytest.mark.parametrize("is_interrupted", [True, False])
def test_a_short_file_is_truncated_unless_the_log_has_its_pages(
    sqlite_engine: Engine, is_interrupted: bool
) -> None:
    file = Path(sqlite_engine.url.database or "")
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as writer:
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        writer.execute("CREATE TABLE filler (data BLOB)")
        for _ in range(100):
            writer.execute("INSERT INTO filler VALUES (randomblob(5000))")
        if is_interrupted:
            # A checkpoint writes the first page first, which counts all pages.
            pages = writer.execute("PRAGMA page_count").fetchone()[0]
            with file.open("r+b") as raw:
                raw.seek(28)
                raw.write(pages.to_bytes(4, "big"))
            assert file.stat().st_size < pages * 4096
        else:
            writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            os.truncate(file, file.stat().st_size // 2)
            writer.execute("INSERT INTO filler VALUES (randomblob(5000))")
        check = sqlite.TruncationCheck(file)
        assert check.is_truncated() is not is_interrupted
    check.close()


def test_a_check_of_the_file_leaves_the_locks_of_its_connections(sqlite_engine: Engine) -> None:
    file = Path(sqlite_engine.url.database or "")
    journal, check = FakeJournal(Writer(sqlite_engine)), sqlite.TruncationCheck(file)
    for number in range(3):
        run = FakeProducer(f"run-{number}")
        run.begin()
        journal.deliver(run)
        assert not check.is_truncated()
        # A process that takes itself for the last one removes the log as it ends.
        count = f"import sqlite3; c = sqlite3.connect({str(file)!r}); print(c.execute('{COUNT}')"
        shown = subprocess.run(
            [sys.executable, "-c", f"{count}.fetchone()[0])"],
            check=True,
            capture_output=True,
            text=True,
        )
        assert shown.stdout == f"{number + 1}\n"
    sqlite_engine.dispose()
    check.close()
