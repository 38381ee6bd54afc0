"""Reading the journal in slices finds what reading it at once would."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside.bus.broker.storage import sqlite_scan
from lineside.bus.broker.storage.journal import Write
from lineside.bus.broker.storage.sqlite_journal import SqliteJournal
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.patterns import Patterns

AT_ONCE, ONE_STEP = math.inf, -math.inf


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    opened = SqliteJournal(tmp_path / "journal.db")
    yield opened
    opened.close()


def fill(journal: SqliteJournal, entries: int, rng: random.Random) -> list[Stream]:
    streams = [
        Stream(rng.choice("abcdef"), rng.choice(["rank0", "control"]), rng.choice("xyz"))
        for _ in range(entries)
    ]
    journal.append([Write(stream, 0, 1, b"blob") for stream in streams], {})
    return streams


def read_offsets(journal: SqliteJournal, patterns: Patterns, deadline: float) -> list[int]:
    scan, position, offsets = journal.scan(patterns), 0, list[int]()
    while position < journal.head:
        entries, position = scan.read(position, journal.head, 30, deadline)
        offsets += [entry.offset for entry in entries]
    return offsets


@pytest.mark.parametrize("deadline", [AT_ONCE, ONE_STEP])
@pytest.mark.parametrize(
    "patterns", [["a"], ["a/rank0", "b/*/x"], ["*/control"], ["*/*/z", "c"], ["none"], ["*"], []]
)
def test_a_scan_finds_every_matching_entry_in_order(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch, patterns: list[str], deadline: float
) -> None:
    # As if there were more than one search holds, and streams longer than one step.
    monkeypatch.setattr(sqlite_scan, "_FOUND_MAX", 20)
    monkeypatch.setattr(sqlite_scan, "_SEARCH_ENTRIES", 4)
    monkeypatch.setattr(sqlite_scan, "_READ_ENTRIES", 7)
    wanted = Patterns(patterns)
    streams = fill(journal, 500, random.Random(1))
    expected = [offset for offset, stream in enumerate(streams, 1) if stream in wanted]
    assert read_offsets(journal, wanted, deadline) == expected


def test_a_scan_whose_time_is_over_goes_on_in_the_next_call(journal: SqliteJournal) -> None:
    streams = fill(journal, 300, random.Random(2))
    scan = journal.scan(Patterns(["*/rank0/x"]))
    assert scan.read(0, journal.head, 1 << 20, ONE_STEP) == ([], 0)
    head = journal.head
    fill(journal, 300, random.Random(3))  # while it searches
    reached = 0
    while not reached:
        entries, reached = scan.read(0, journal.head, 1 << 20, ONE_STEP)
    first = [o for o, s in enumerate(streams, 1) if (s.producer, s.attempt) == ("rank0", "x")]
    assert [entry.offset for entry in entries] == first[:64]
    assert reached <= head
