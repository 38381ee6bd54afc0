"""The spool writer: one write for each event, in its own folder, lock and segments."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lineside.bus.errors import SettingsError
from lineside.bus.protocol import wire
from lineside.bus.protocol.event_kinds import STEP_KINDS
from lineside.bus.protocol.events import Event
from lineside.bus.protocol.fields import INT_MAX, field_problem
from lineside.bus.protocol.limits import MAX_RECORD
from lineside.emitter.spool.status_page import NEXT_SEQ, PID, RANK
from lineside.emitter.spool.writer import SpoolWriter
from tests.emitter.spool.spools import STREAM, MakeWriter, PageOnDisk, events, holder_of

# Small and huge numbers, so that a struct makes some of the records and msgpack the others.
hook_events = st.builds(
    Event,
    seq=st.just(0),
    time=st.floats(1),
    monotonic_ns=st.integers(1, (1 << 64) - 1),
    kind=st.sampled_from(sorted(STEP_KINDS | {"log", "save", "of_the_user"})),
    step=st.integers(0, 1 << 20) | st.integers(-INT_MAX, INT_MAX),
    epoch=st.none() | st.floats(-(2.0**62), 2.0**62),
    control=st.integers(0, 31) | st.integers(-INT_MAX, INT_MAX),
    data=st.none() | st.dictionaries(st.text("ab"), st.integers(0, 9) | st.floats()),
)

ODD_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.sampled_from([np.float32(1.5), np.int64(3), np.datetime64("NaT"), torch.tensor(2.0)])
    | st.sampled_from([torch.tensor(1, device="meta"), object, 1e30, 1 << 63, -(1 << 63), "2"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def test_every_event_is_on_disk_when_write_returns(make: MakeWriter, root: Path) -> None:
    writer = make()
    for n in range(5):
        assert writer.write("log", n, n / 2, 16, {"logs": {"loss": float(n)}}, 1_000 + n, 2.5 + n)
        event = events(root)[-1]
        assert event == Event(n, 2.5 + n, 1_000 + n, "log", n, n / 2, 16, {"logs": {"loss": n}})
        assert writer.fields[NEXT_SEQ] == n + 1


def test_an_event_has_the_present_time_unless_one_is_given(make: MakeWriter, root: Path) -> None:
    make().write("step_end")
    [event] = events(root)
    assert event.time > 1_700_000_000
    assert event.monotonic_ns > 0


def test_only_the_owner_can_read_the_spool(make: MakeWriter, root: Path) -> None:
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


def test_descriptors_are_high_numbers_that_scripts_rarely_close(make: MakeWriter) -> None:
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


def test_a_segment_is_named_after_its_first_event(make: MakeWriter, root: Path) -> None:
    writer = make(segment=500)
    for n in range(40):
        writer.write("log", n, None, 0, {"text": "x" * 60})
    assert [event.seq for event in events(root)] == list(range(40))
    for segment in root.glob("*/*/*/*.seg"):
        [first, *_] = wire.record_bodies(segment.read_bytes())
        assert int(segment.stem) == wire.decode_event(first).seq
        assert segment.stat().st_size <= 500


def test_a_record_larger_than_a_segment_gets_its_own_segment(make: MakeWriter, root: Path) -> None:
    writer = make(segment=500)
    for size in (10, 900, 10):
        writer.write("log", data={"text": "x" * size})
    assert [path.stem.lstrip("0") for path in sorted(root.glob("*/*/*/*.seg"))] == ["", "1", "2"]


def test_without_a_new_segment_the_writer_keeps_the_old_one(
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


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(hook_events, max_size=20), st.integers(0, 1 << 40))
def test_events_read_back_the_same_whichever_encoder_wrote_them(
    make: MakeWriter, root: Path, hooks: list[Event], first_seq: int
) -> None:
    shutil.rmtree(root, ignore_errors=True)
    writer = make()
    writer.next_seq = first_seq
    for event in hooks:
        assert writer.write(
            event.kind,
            event.step,
            event.epoch,
            event.control,
            event.data,
            event.monotonic_ns,
            event.time,
        )
    writer.close()
    expected = [replace(event, seq=first_seq + n) for n, event in enumerate(hooks)]
    assert repr(events(root)) == repr(expected)  # NaN is not equal to itself


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


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    kind=st.text() | st.just("log"),
    step=st.integers() | ODD_VALUES,
    epoch=st.none() | st.floats() | ODD_VALUES,
    data=st.none() | st.dictionaries(st.text(), ODD_VALUES) | ODD_VALUES,
)
def test_every_reader_accepts_what_a_script_may_hand_over(
    make: MakeWriter, root: Path, kind: str, step: Any, epoch: Any, data: Any
) -> None:
    shutil.rmtree(root, ignore_errors=True)
    writer = make()
    assert writer.write(kind, step, epoch, 0, data)
    writer.close()
    [event] = events(root)
    assert field_problem(event) is None


def test_a_record_never_exceeds_what_the_bus_takes(make: MakeWriter, root: Path) -> None:
    writer = make()
    assert writer.write("log", data={"logs": {str(n): "x" * 2_000 for n in range(5_000)}})
    assert writer.write("log", data={"logs": ["x" * 100] * 100})
    assert all(len(body) <= MAX_RECORD for body in wire.record_bodies(_blob(root)))
    assert [event.seq for event in events(root)] == [0, 1]
    assert writer.encode_failures == 1


def test_a_record_never_has_more_maps_and_lists_than_the_broker_takes(
    make: MakeWriter, root: Path
) -> None:
    writer = make()
    # As many values as may be kept, and a remark beside each on what was left out of it.
    assert writer.write("predict", data={"pairs": [[n, 0.5] for n in range(18_000)]})
    assert writer.write("log", data={"logs": {"loss": 1.0}})
    assert wire.count_records(_blob(root)) == 2
    assert writer.encode_failures == 1


def test_the_page_names_the_writer(make: MakeWriter) -> None:
    writer = make(rank=2)
    page = PageOnDisk(writer.folder.path)
    assert [page.fields[PID], page.fields[RANK]] == [os.getpid(), 2]


def _blob(root: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(root.glob("*/*/*/*.seg")))
