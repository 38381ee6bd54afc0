"""The spool writer while its files are removed or its descriptors closed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from lineside.emitter.spool import status_page as page_module
from lineside.emitter.spool.status_page import ACKED_SEQ, DROPPED, NEXT_SEQ
from lineside.emitter.spool.status_reader import StatusPageFile
from tests.emitter.spool.spools import MakeWriter, PageOnDisk, events, holder_of


def test_a_descriptor_closed_under_it_costs_no_event(make: MakeWriter, root: Path) -> None:
    writer = make()
    for n in range(3):
        assert writer.write("log", n)
        os.close(writer._fd)
    assert writer.write("log", data={"text": "x" * 100_000})
    os.close(writer._fd)
    assert writer.write("log", data={"text": "x" * 100_000})
    assert [event.seq for event in events(root)] == list(range(5))


def test_a_deleted_spool_is_made_again_and_the_loss_is_reported(
    make: MakeWriter, root: Path
) -> None:
    writer = make(rank=3)
    for _ in range(10):
        writer.write("log")
    writer.fields[ACKED_SEQ] = 4
    shutil.rmtree(root)
    writer.write("log")
    writer.maintain()
    writer.write("save", 5)
    gap, save = events(root)
    assert gap.data == {"first": 4, "end": 11, "kinds": {}, "why": "removed"}
    assert (gap.seq, save.seq) == (11, 12)
    assert writer.dropped == 7
    assert holder_of(writer.folder.path / "lock") == str(os.getpid())
    page = PageOnDisk(writer.folder.path)
    assert (page.fields[NEXT_SEQ], page.fields[DROPPED], page.fields[ACKED_SEQ]) == (13, 7, 4)


def test_a_deleted_lock_is_made_again_beside_the_other_files(make: MakeWriter, root: Path) -> None:
    writer = make()
    writer.write("log")
    writer.maintain()
    (writer.folder.path / "lock").unlink()
    (writer.folder.path / "page").unlink()
    writer.maintain()
    writer.write("log")
    assert holder_of(writer.folder.path / "lock") == str(os.getpid())
    assert [event.seq for event in events(root)] == [0, 1]
    page = PageOnDisk(writer.folder.path)
    assert page.fields[NEXT_SEQ] == 2


@pytest.mark.parametrize("kind", ["ext4", "overlay"])
def test_a_page_made_again_keeps_the_confirmed_seq(
    make: MakeWriter, root: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(page_module, "filesystem", lambda _: kind)
    writer = make()
    writer.write("log")
    StatusPageFile(writer.folder.path).acknowledge(1)
    writer.maintain()
    (writer.folder.path / "lock").unlink()
    writer.maintain()
    writer.maintain()
    assert writer.fields[ACKED_SEQ] == 1


def test_a_script_that_closes_every_descriptor_costs_no_event_and_no_lock(
    make: MakeWriter, root: Path, tmp_path: Path
) -> None:
    writer = make()
    writer.write("log")
    fd, lock = writer._fd, writer.folder._lock
    assert lock is not None
    os.close(fd)
    os.close(lock.fd)
    with (tmp_path / "checkpoint").open("w") as theirs:  # which gets the writer's numbers
        os.dup2(theirs.fileno(), fd)
        os.dup2(theirs.fileno(), lock.fd)
        writer.maintain()
        writer.write("log")
        os.close(fd)
        os.close(lock.fd)
    assert [event.seq for event in events(root)] == [0, 1]
    assert (tmp_path / "checkpoint").stat().st_size == 0
    assert holder_of(writer.folder.path / "lock") == str(os.getpid())
    assert writer.dropped == 0


def test_a_segment_descriptor_closed_alone_is_noticed(make: MakeWriter, root: Path) -> None:
    writer = make()
    writer.write("log")
    os.close(writer._fd)
    writer.maintain()
    assert writer._fd == -1
    writer.write("log")
    assert [event.seq for event in events(root)] == [0, 1]


def test_a_segment_removed_after_it_was_confirmed_is_no_loss(make: MakeWriter, root: Path) -> None:
    writer = make()
    writer.write("log")
    writer.fields[ACKED_SEQ] = 1
    next(root.glob("*/*/*/*.seg")).unlink()
    writer.maintain()
    writer.write("log")
    writer.maintain()
    [event] = events(root)
    assert event.seq == 1
    assert writer.dropped == 0


def test_a_spool_that_cannot_be_made_again_is_tried_again_later(
    make: MakeWriter, root: Path
) -> None:
    writer = make()
    writer.write("log")
    shutil.rmtree(root)
    root.write_text("in the way")
    writer.maintain()
    writer.write("log")
    root.unlink()
    writer.maintain()
    writer.write("log")
    assert [event.kind for event in events(root)] == ["gap", "gap", "log"]
    gaps = {event.data["why"]: event.data["end"] for event in events(root) if event.data}
    assert gaps == {"removed": 1, "disk": 2}
    assert writer.dropped == 2
