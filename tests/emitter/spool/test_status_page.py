"""The page of shared memory: it never fails the trainer, and tells a reader what is no page."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lineside.emitter.spool import status_page as page_module
from lineside.emitter.spool.status_page import (
    ACKED_SEQ,
    MAGIC,
    MAGIC_FIELD,
    PAGE_BYTES,
    PID,
    STEP,
    StatusPage,
)


def test_both_sides_see_the_same_words(tmp_path: Path) -> None:
    ours = StatusPage.create(tmp_path)
    theirs = StatusPage.open(tmp_path)
    assert theirs is not None
    assert (theirs.fields[MAGIC_FIELD], theirs.fields[PID]) == (MAGIC, os.getpid())
    ours.fields[STEP] = 7
    theirs.fields[ACKED_SEQ] = 8
    assert (theirs.fields[STEP], ours.fields[ACKED_SEQ]) == (7, 8)
    assert (tmp_path / "page").stat().st_size == PAGE_BYTES


def test_without_a_file_the_words_are_in_memory(tmp_path: Path) -> None:
    page = StatusPage.create(tmp_path / "missing")
    page.fields[STEP] = 7
    page.sync()
    assert page.fields[STEP] == 7


def test_on_a_full_disk_the_words_are_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Storing through the mapping of a file without blocks would be a SIGBUS."""
    monkeypatch.setattr(os, "pwrite", lambda *given: 100)
    page = StatusPage.create(tmp_path)
    page.fields[STEP] = 7
    assert StatusPage.open(tmp_path) is None


@pytest.mark.parametrize("kind", ["btrfs", "overlay", "nfs4", ""])
def test_where_a_mapped_store_could_kill_the_words_are_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Copy-on-write file systems take a new block for a store, and have none on a full disk."""
    monkeypatch.setattr(page_module, "filesystem", lambda _: kind)
    ours, theirs = StatusPage.create(tmp_path), None
    try:
        theirs = StatusPage.open(tmp_path)
        assert theirs is not None
        ours.fields[STEP] = 7
        theirs.fields[ACKED_SEQ] = 8
        assert (theirs.fields[STEP], ours.fields[ACKED_SEQ]) == (0, 0)
        ours.sync()
        assert (theirs.fields[STEP], ours.fields[ACKED_SEQ]) == (7, 8)
        ours.close()
        ours.fields[STEP] = 9
        ours.sync()
        assert (theirs.fields[STEP], ours.fields[STEP]) == (7, 9)
    finally:
        ours.close()


def test_what_is_no_page_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert StatusPage.open(tmp_path) is None
    for content in (b"", b"short", bytes(PAGE_BYTES)):
        (tmp_path / "page").write_bytes(content)
        assert StatusPage.open(tmp_path) is None

    def fail(*given: object) -> None:
        raise OSError

    monkeypatch.setattr(page_module, "_map", fail)
    assert StatusPage.open(tmp_path) is None


def test_a_mapped_page_holds_no_descriptor(tmp_path: Path) -> None:
    """A script that closes all of them must not be left with one of ours that closes its own."""
    before = set(Path("/proc/self/fd").iterdir())
    page = StatusPage.create(tmp_path)
    assert set(Path("/proc/self/fd").iterdir()) == before
    page.fields[STEP] = 7
    assert page.fields[STEP] == 7
