"""The spool writer: one write an event, and an honest account when the disk will not take it."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lineside.bus import wire
from lineside.bus.errors import SettingsError
from lineside.bus.events import Event, Stream
from lineside.emitter.drops import LOG, STEP, VITAL, level_of
from lineside.emitter.page import ACKED_SEQ, DROPPED, NEXT_SEQ, Page
from lineside.emitter.spool import SpoolWriter

STREAM = Stream("run", "rank0", "attempt")
SECOND = 1_000_000_000
_ASK_LOCK = """
import sys; from pathlib import Path; from lineside.emitter.locks import holder
print(holder(Path(sys.argv[1])))
"""

MakeWriter = Callable[..., SpoolWriter]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def make(root: Path) -> Iterator[MakeWriter]:
    made: list[SpoolWriter] = []

    def writer(**options: Any) -> SpoolWriter:
        made.append(SpoolWriter(root, options.pop("stream", STREAM), **options))
        return made[-1]

    yield writer
    for one in made:
        one.close()


def events(root: Path) -> list[Event]:
    segments = sorted(root.glob("*/*/*/*.seg"))
    blob = b"".join(segment.read_bytes() for segment in segments)
    return [wire.decode_event(body) for body in wire.bodies(blob)]


def holder_of(lock: Path) -> str:
    asked = [sys.executable, "-c", _ASK_LOCK, str(lock)]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """As a full disk does: a write takes what fits, the next one nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def failing_writes(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Iterator[list[int]]:
    """``os.write`` raises ``error``; gives the list of tries."""
    tries: list[int] = []

    def fail(fd: int, data: bytes) -> int:
        tries.append(fd)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        yield tries


def test_every_event_is_on_disk_when_write_returns(make: MakeWriter, root: Path) -> None:
    writer = make()
    for n in range(5):
        assert writer.write("log", n, n / 2, 16, {"logs": {"loss": float(n)}}, 1_000 + n, 2.5 + n)
        event = events(root)[-1]
        assert event == Event(n, 2.5 + n, 1_000 + n, "log", n, n / 2, 16, {"logs": {"loss": n}})
        assert writer.words[NEXT_SEQ] == n + 1


def test_time_is_now_unless_it_is_given(make: MakeWriter, root: Path) -> None:
    make().write("step_end")
    [event] = events(root)
    assert event.time > 1_700_000_000
    assert event.monotonic_ns > 0


def test_nobody_else_can_read_the_spool(make: MakeWriter, root: Path) -> None:
    writer = make()
    writer.write("log")
    for path in (root, *root.rglob("*")):
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_the_lock_is_held_until_the_writer_closes(make: MakeWriter) -> None:
    writer = make()
    lock = writer.folder.path / "lock"
    assert holder_of(lock) == str(os.getpid())
    writer.close()
    assert holder_of(lock) == "None"


def test_a_folder_is_seen_only_when_it_is_complete_and_locked(
    make: MakeWriter, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, seen = Path.rename, []

    def look_first(source: Path, target: Path) -> Path:
        seen.append((sorted(path.name for path in source.iterdir()), holder_of(source / "lock")))
        assert not target.exists()
        assert source.name.startswith(".")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", look_first)
    make()
    assert seen == [(["lock", "page", "stream.json"], str(os.getpid()))]


def test_two_writers_never_share_a_stream(make: MakeWriter, root: Path) -> None:
    first = make()
    with pytest.raises(OSError, match=r"[Nn]ot empty"):
        make()
    assert [path.name for path in first.folder.path.parent.iterdir()] == ["attempt"]
    assert holder_of(first.folder.path / "lock") == str(os.getpid())


def test_a_spool_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot be made"):
        SpoolWriter(tmp_path / "file", STREAM)


def test_descriptors_are_out_of_the_way_of_scripts_that_close_all(make: MakeWriter) -> None:
    writer = make()
    writer.write("log")
    assert writer.folder._lock is not None
    assert min(writer._fd, writer.folder._lock.fd) > 200


def test_descriptors_stay_low_where_few_are_allowed(make: MakeWriter, root: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, hard))
    try:
        writer = make()
        writer.write("log")
        assert writer._fd < 40
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(events(root)) == 1


def test_a_segment_bears_the_number_of_its_first_event(make: MakeWriter, root: Path) -> None:
    writer = make(segment=500)
    for n in range(40):
        writer.write("log", n, None, 0, {"text": "x" * 60})
    assert [event.seq for event in events(root)] == list(range(40))
    for segment in root.glob("*/*/*/*.seg"):
        [first, *_] = wire.bodies(segment.read_bytes())
        assert int(segment.stem) == wire.decode_event(first).seq
        assert segment.stat().st_size <= 500


def test_a_record_larger_than_a_segment_has_one_of_its_own(make: MakeWriter, root: Path) -> None:
    writer = make(segment=500)
    for size in (10, 900, 10):
        writer.write("log", data={"text": "x" * size})
    assert [path.stem.lstrip("0") for path in sorted(root.glob("*/*/*/*.seg"))] == ["", "1", "2"]


def test_without_a_new_segment_the_old_one_goes_on(
    make: MakeWriter, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make(segment=500)
    writer.write("log")

    def fail(first_seq: int) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(writer.folder, "open_segment", fail)
    for _ in range(20):
        assert writer.write("log", data={"text": "x" * 60})
    assert [event.seq for event in events(root)] == list(range(21))


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        ("step_end", STEP),
        ("prediction_step", STEP),
        ("log", LOG),
        ("heartbeat", LOG),
        ("of_the_user", LOG),
        ("evaluate", VITAL),
        ("save", VITAL),
        ("run_end", VITAL),
        ("gap", VITAL),
        ("control_applied", VITAL),
    ],
)
def test_step_events_are_given_up_first_then_logs(kind: str, level: int) -> None:
    assert level_of(kind) == level


def test_at_the_cap_events_are_given_up_by_priority_and_named(make: MakeWriter, root: Path) -> None:
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
    assert writer.words[DROPPED] == writer.dropped == dropped.total()
    assert writer.folder.usage() <= 64_000
    kept = {event.seq for event in events(root)}

    for segment in sorted(root.glob("*/*/*/*.seg"))[:-1]:  # shipped
        segment.unlink()
    kept_before = len(events(root))
    assert not writer.write("step_end", now_ns=SECOND + 1), "measured again too soon"
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
    assert writer.settled_seq == writer.next_seq


def test_older_attempts_of_the_rank_count_towards_the_cap(make: MakeWriter) -> None:
    first = make(cap=20_000, stream=Stream("run", "rank0", "a1"))
    while first.write("log", data={"text": "x" * 100}):
        pass
    second = make(cap=20_000, stream=Stream("run", "rank0", "a2"))
    assert not second.write("log", data={"text": "x" * 100})
    assert second.write("run_start")
    other = make(cap=20_000, stream=Stream("run", "rank1", "a2"))
    assert other.write("log")


def test_a_half_written_record_is_taken_back_and_later_ones_are_tried(
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
    assert not writer.write("log", 4, now_ns=SECOND + 1), "the disk is left alone for a while"
    assert writer.write("log", 5, now_ns=2 * SECOND)
    first, gap, last = events(root)
    assert (first.step, last.step) == (0, 5)
    assert gap.data == {"first": 1, "end": 5, "kinds": {"log": 3, "save": 1}, "why": "disk"}
    assert [first.seq, gap.seq, last.seq] == [0, 5, 6]
    assert writer.dropped == 4


def test_a_full_disk_is_tried_rarely_but_for_vital_events(
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
    assert writer.settled_seq == 1, "step events are still given up until one gets in"
    assert writer.write("step_end", now_ns=20 * SECOND)
    assert [event.kind for event in events(root)] == ["log", "evaluate", "gap", "step_end"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF, errno.ESTALE])
def test_no_error_of_the_disk_gets_out(
    make: MakeWriter, root: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    writer = make()
    writer.write("log", 0, now_ns=SECOND)
    with failing_writes(monkeypatch, OSError(code, "failed")):
        for n in range(1, 4):
            assert not writer.write("log", n, now_ns=SECOND)
            assert not writer.write("save", n, now_ns=SECOND)
            writer.settle()
            writer.tend()
    assert writer.write("log", 9, now_ns=time.monotonic_ns() + 9 * SECOND)
    assert [event.kind for event in events(root)] == ["log", "gap", "log"]
    assert writer.dropped == 6


def test_gaps_that_are_due_can_be_written_at_the_end(
    make: MakeWriter, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make()
    writer.settle()
    writer.write("log", now_ns=1)
    with failing_writes(monkeypatch, OSError(errno.ENOSPC, "full")):
        writer.write("step_end", now_ns=1)
    assert writer.settled_seq == 1
    writer.settle(7, 0.5)
    assert writer.settled_seq == writer.next_seq == 3
    assert [(event.kind, event.step) for event in events(root)] == [("log", 0), ("gap", 7)]


def test_a_new_segment_on_a_full_disk_bears_the_number_of_what_it_holds(
    make: MakeWriter, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make()
    with failing_writes(monkeypatch, OSError(errno.ENOSPC, "full")):
        assert not writer.write("run_start")
        assert not writer.write("save")
    assert not list(root.glob("*/*/*/*.seg"))
    assert writer.write("save")
    assert [path.stem for path in root.glob("*/*/*/*.seg")] == [f"{2:016}"]


def test_a_descriptor_closed_under_it_costs_no_event(make: MakeWriter, root: Path) -> None:
    writer = make()
    for n in range(3):
        assert writer.write("log", n)
        os.close(writer._fd)
    assert writer.write("log", data={"text": "x" * 100_000})
    os.close(writer._fd)
    assert writer.write("log", data={"text": "x" * 100_000})
    assert [event.seq for event in events(root)] == list(range(5))


def test_an_interrupt_in_the_write_never_makes_two_events_of_one_number(
    make: MakeWriter, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make()
    writer.write("log")
    with failing_writes(monkeypatch, KeyboardInterrupt()), pytest.raises(KeyboardInterrupt):
        writer.write("log")
    writer.write("log")
    assert [event.seq for event in events(root)] == [0, 2]


def test_a_spool_that_is_deleted_is_made_again_and_the_loss_named(
    make: MakeWriter, root: Path
) -> None:
    writer = make(rank=3)
    for _ in range(10):
        writer.write("log")
    writer.words[ACKED_SEQ] = 4
    shutil.rmtree(root)
    writer.write("log")
    writer.tend()
    writer.write("save", 5)
    gap, save = events(root)
    assert gap.data == {"first": 4, "end": 11, "kinds": {}, "why": "removed"}
    assert (gap.seq, save.seq) == (11, 12)
    assert writer.dropped == 7
    assert holder_of(writer.folder.path / "lock") == str(os.getpid())
    page = Page.open(writer.folder.path)
    assert page is not None
    assert (page.words[NEXT_SEQ], page.words[DROPPED], page.words[ACKED_SEQ]) == (13, 7, 4)
    page.close()


def test_a_deleted_lock_is_made_again_where_the_rest_still_is(make: MakeWriter, root: Path) -> None:
    writer = make()
    writer.write("log")
    writer.tend()
    (writer.folder.path / "lock").unlink()
    (writer.folder.path / "page").unlink()
    writer.tend()
    writer.write("log")
    assert holder_of(writer.folder.path / "lock") == str(os.getpid())
    assert [event.seq for event in events(root)] == [0, 1]
    page = Page.open(writer.folder.path)
    assert page is not None
    assert page.words[NEXT_SEQ] == 2
    page.close()


def test_a_script_that_closes_every_descriptor_costs_no_event_and_no_lock(
    make: MakeWriter, root: Path, tmp_path: Path
) -> None:
    writer = make()
    writer.write("log")
    fd, lock = writer._fd, writer.folder._lock
    assert lock is not None
    os.close(fd)
    os.close(lock.fd)
    with (tmp_path / "checkpoint").open("w") as theirs:  # which is given our numbers
        os.dup2(theirs.fileno(), fd)
        os.dup2(theirs.fileno(), lock.fd)
        writer.tend()
        writer.write("log")
        os.close(fd)
        os.close(lock.fd)
    assert [event.seq for event in events(root)] == [0, 1]
    assert (tmp_path / "checkpoint").stat().st_size == 0
    assert holder_of(writer.folder.path / "lock") == str(os.getpid())
    assert writer.dropped == 0


def test_a_lost_segment_descriptor_alone_is_noticed(make: MakeWriter, root: Path) -> None:
    writer = make()
    writer.write("log")
    os.close(writer._fd)
    writer.tend()
    assert writer._fd == -1
    writer.write("log")
    assert [event.seq for event in events(root)] == [0, 1]


def test_a_segment_removed_after_it_was_confirmed_is_no_loss(make: MakeWriter, root: Path) -> None:
    writer = make()
    writer.write("log")
    writer.words[ACKED_SEQ] = 1
    next(root.glob("*/*/*/*.seg")).unlink()
    writer.tend()
    writer.write("log")
    writer.tend()
    [event] = events(root)
    assert event.seq == 1
    assert writer.dropped == 0


def test_a_spool_that_cannot_be_made_again_is_tried_later(make: MakeWriter, root: Path) -> None:
    writer = make()
    writer.write("log")
    shutil.rmtree(root)
    root.write_text("in the way")
    writer.tend()
    writer.write("log")
    root.unlink()
    writer.tend()
    writer.write("log")
    assert [event.kind for event in events(root)] == ["gap", "gap", "log"]
    told = {event.data["why"]: event.data["end"] for event in events(root) if event.data}
    assert told == {"removed": 1, "disk": 2}
    assert writer.dropped == 2


def test_data_that_cannot_be_encoded_is_described_instead(make: MakeWriter, root: Path) -> None:
    writer = make()
    assert writer.write(
        "log", data={"logs": {"a": 1 << 80, "b": {1, 2}, "c": "\ud800", "d": print}}
    )
    assert writer.write("log", 1, data={"logs": float("nan"), 5: 6})
    first, second = events(root)
    assert first.data is not None
    assert first.data["logs"]["a"] == float(1 << 80)
    assert first.data["logs"]["b"] == [1, 2]
    assert "print" in first.data["logs"]["d"]["!"]
    assert (first.seq, second.seq, second.step) == (0, 1, 1)
    assert writer.encode_failures == 1


def test_fields_of_odd_types_do_not_lose_the_event(make: MakeWriter, root: Path) -> None:
    class Odd:
        def __int__(self) -> int:
            raise ValueError

    writer = make()
    assert writer.write("log", Odd(), Odd(), Odd())  # type: ignore[arg-type]
    [event] = events(root)
    assert (event.step, event.epoch, event.control) == (0, None, 0)


def test_a_record_never_exceeds_what_the_bus_takes(make: MakeWriter, root: Path) -> None:
    writer = make()
    assert writer.write("log", data={"logs": {str(n): "x" * 2_000 for n in range(5_000)}})
    assert writer.write("log", data={"logs": ["x" * 100] * 100})
    assert all(len(body) <= wire.MAX_RECORD for body in wire.bodies(_blob(root)))
    assert [event.seq for event in events(root)] == [0, 1]
    assert writer.encode_failures == 1


def test_the_page_says_who_writes(make: MakeWriter) -> None:
    writer = make(rank=2)
    page = Page.open(writer.folder.path)
    assert page is not None
    assert [page.words[1], page.words[2]] == [os.getpid(), 2]
    page.close()


def test_hours_of_flapping_tell_every_hole(make: MakeWriter, root: Path) -> None:
    """Holes and gap records agree, whatever the order in which the disk says yes and no."""
    writer = make(cap=40_000, segment=2_000)
    kinds = ["step_begin", "log", "step_end", "evaluate"]
    read: list[Event] = []
    for n in range(3_000):
        writer.write(kinds[n % 7 % 4], n, now_ns=n * 50_000_000 + 1)
        if n % 1_000 == 999:
            read += events(root)
            for segment in sorted(root.glob("*/*/*/*.seg"))[:-1]:
                segment.unlink()
    writer.settle()
    read += events(root)
    seqs = sorted({event.seq for event in read})
    holes = sum(after - before - 1 for before, after in pairwise(seqs))
    told = {event.seq: event.data for event in read if event.kind == "gap"}
    assert holes == sum(sum(data["kinds"].values()) for data in told.values() if data) > 0
    assert holes <= writer.dropped


def _blob(root: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(root.glob("*/*/*/*.seg")))
