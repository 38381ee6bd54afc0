"""Drops at the cap and on a failing disk: which events, in which order, and the gap records."""

from __future__ import annotations

import errno
import os
import resource
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from lineside.bus.protocol.events import Event, Stream
from lineside.emitter.spool.drop_policy import DROP_FIRST, DROP_LAST, DROP_SECOND, drop_level
from lineside.emitter.spool.status_page import DROPPED
from tests.emitter.spool.spools import MakeWriter, events

SECOND = 1_000_000_000


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Act as a full disk: a write stores what fits, the next one nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def failing_writes(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Iterator[list[int]]:
    """Let ``os.write`` raise ``error``; yields the list of its calls."""
    tries: list[int] = []

    def fail(fd: int, data: bytes) -> int:
        tries.append(fd)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        yield tries


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        ("step_end", DROP_FIRST),
        ("prediction_step", DROP_FIRST),
        ("log", DROP_SECOND),
        ("heartbeat", DROP_SECOND),
        ("of_the_user", DROP_SECOND),
        ("evaluate", DROP_LAST),
        ("save", DROP_LAST),
        ("run_end", DROP_LAST),
        ("gap", DROP_LAST),
        ("control_applied", DROP_LAST),
    ],
)
def test_step_events_are_dropped_first_then_logs(kind: str, level: int) -> None:
    assert drop_level(kind) == level


def test_at_the_cap_events_are_dropped_by_priority_and_listed(make: MakeWriter, root: Path) -> None:
    writer = make(cap=64_000, segment=4_000)
    dropped: Counter[str] = Counter()
    first_dropped: dict[str, int] = {}
    kinds = ["step_begin", "step_end", "log"]
    seq = 0
    while dropped["log"] < 30:
        for kind in [*kinds, *(["save"] if seq % 90 == 0 else [])]:
            if not writer.write(kind, seq, None, 0, None, now_ns=SECOND):
                dropped[kind] += 1
                first_dropped.setdefault(kind, seq)
            seq += 1
    assert first_dropped["step_begin"] < first_dropped["log"]
    assert dropped["save"] == 0
    assert writer.write("evaluate")
    assert writer.next_seq == seq + 1
    assert writer.fields[DROPPED] == writer.dropped == dropped.total()
    assert writer.folder.usage() <= 64_000
    kept = {event.seq for event in events(root)}

    for segment in sorted(root.glob("*/*/*/*.seg"))[:-1]:  # shipped
        segment.unlink()
    kept_before = len(events(root))
    assert not writer.write("step_end", now_ns=SECOND + 1), "the spool was measured again too soon"
    assert writer.write("step_end", now_ns=3 * SECOND)
    gap, step_end = events(root)[kept_before:]
    assert gap.kind == "gap"
    assert gap.data == {
        "first": min(first_dropped.values()),
        "end": seq + 2,
        "kinds": dict(dropped + Counter({"step_end": 1})),
        "why": "cap",
    }
    assert gap.data["end"] - gap.data["first"] >= sum(gap.data["kinds"].values())
    assert (gap.seq, step_end.seq) == (seq + 2, seq + 3)
    assert len(kept) + writer.dropped == writer.next_seq - 2
    assert writer.accounted_seq == writer.next_seq


def test_older_attempts_of_the_rank_count_towards_the_cap(make: MakeWriter) -> None:
    first = make(cap=20_000, stream=Stream("run", "rank0", "a1"))
    while first.write("log", data={"text": "x" * 100}):
        pass
    second = make(cap=20_000, stream=Stream("run", "rank0", "a2"))
    assert not second.write("log", data={"text": "x" * 100})
    assert second.write("run_start")
    other = make(cap=20_000, stream=Stream("run", "rank1", "a2"))
    assert other.write("log")


def test_a_partial_record_is_truncated_and_later_ones_are_tried(
    make: MakeWriter, root: Path
) -> None:
    writer = make()
    writer.write("log", 0, now_ns=SECOND)
    size = next(root.glob("*/*/*/*.seg")).stat().st_size
    with file_size_limit(size + 10):
        assert not writer.write("log", 1, now_ns=SECOND)
        assert next(root.glob("*/*/*/*.seg")).stat().st_size == size
        assert not writer.write("save", 2, now_ns=SECOND)
        assert not writer.write("log", 3, now_ns=SECOND)
    assert not writer.write("log", 4, now_ns=SECOND + 1), "the writer waits before it tries again"
    assert writer.write("log", 5, now_ns=2 * SECOND)
    first, gap, last = events(root)
    assert (first.step, last.step) == (0, 5)
    assert gap.data == {"first": 1, "end": 5, "kinds": {"log": 3, "save": 1}, "why": "disk"}
    assert [first.seq, gap.seq, last.seq] == [0, 5, 6]
    assert writer.dropped == 4


def test_a_full_disk_is_tried_rarely_except_for_vital_events(
    make: MakeWriter, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make()
    writer.write("log", now_ns=SECOND)
    with failing_writes(monkeypatch, OSError(errno.ENOSPC, "full")) as tries:
        for n in range(10_000):
            assert not writer.write("step_end", now_ns=SECOND + n * 1_000_000)
        assert 5 < len(tries) < 20
        before = len(tries)
        assert not writer.write("evaluate", now_ns=SECOND + 1)
        assert len(tries) == before + 1
    assert writer.write("evaluate", now_ns=20 * SECOND)
    assert writer.accounted_seq == 1, "step events are dropped until one is written"
    assert writer.write("step_end", now_ns=20 * SECOND)
    assert [event.kind for event in events(root)] == ["log", "evaluate", "gap", "step_end"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF, errno.ESTALE])
def test_no_disk_error_is_raised(
    make: MakeWriter, root: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    writer = make()
    writer.write("log", 0, now_ns=SECOND)
    with failing_writes(monkeypatch, OSError(code, "failed")):
        for n in range(1, 4):
            assert not writer.write("log", n, now_ns=SECOND)
            assert not writer.write("save", n, now_ns=SECOND)
            writer.flush_gaps()
            writer.maintain()
    assert writer.write("log", 9, now_ns=time.monotonic_ns() + 9 * SECOND)
    assert [event.kind for event in events(root)] == ["log", "gap", "log"]
    assert writer.dropped == 6


def test_due_gaps_can_be_written_at_the_end(
    make: MakeWriter, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make()
    writer.flush_gaps()
    writer.write("log", now_ns=1)
    with failing_writes(monkeypatch, OSError(errno.ENOSPC, "full")):
        writer.write("step_end", now_ns=1)
    assert writer.accounted_seq == 1
    writer.flush_gaps(7, 0.5)
    assert writer.accounted_seq == writer.next_seq == 3
    assert [(event.kind, event.step) for event in events(root)] == [("log", 0), ("gap", 7)]


def test_a_new_segment_on_a_full_disk_is_named_after_its_first_event(
    make: MakeWriter, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make()
    with failing_writes(monkeypatch, OSError(errno.ENOSPC, "full")):
        assert not writer.write("run_start")
        assert not writer.write("save")
    assert not list(root.glob("*/*/*/*.seg"))
    assert writer.write("save")
    assert [path.stem for path in root.glob("*/*/*/*.seg")] == [f"{2:016}"]


def test_an_interrupt_in_the_write_never_makes_two_events_with_one_seq(
    make: MakeWriter, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make()
    writer.write("log")
    with failing_writes(monkeypatch, KeyboardInterrupt()), pytest.raises(KeyboardInterrupt):
        writer.write("log")
    writer.write("log")
    assert [event.seq for event in events(root)] == [0, 2]


def test_gap_records_list_every_hole_of_a_flapping_disk(make: MakeWriter, root: Path) -> None:
    """Holes and gap records agree in whatever order writes fail and succeed."""
    writer = make(cap=40_000, segment=2_000)
    kinds = ["step_begin", "log", "step_end", "evaluate"]
    read: list[Event] = []
    for n in range(3_000):
        writer.write(kinds[n % 7 % 4], n, now_ns=n * 50_000_000 + 1)
        if n % 1_000 == 999:
            read += events(root)
            for segment in sorted(root.glob("*/*/*/*.seg"))[:-1]:
                segment.unlink()
    writer.flush_gaps()
    read += events(root)
    seqs = sorted({event.seq for event in read})
    holes = sum(after - before - 1 for before, after in pairwise(seqs))
    gaps = {event.seq: event.data for event in read if event.kind == "gap"}
    assert holes == sum(sum(data["kinds"].values()) for data in gaps.values() if data) > 0
    assert holes <= writer.dropped
