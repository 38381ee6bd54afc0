"""The status page as its own process uses it: it never fails the trainer."""

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
from lineside.emitter.spool.status_reader import StatusPageFile
from tests.emitter.spool.spools import PageOnDisk


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Map pages on any file system."""
    monkeypatch.setattr(page_module, "filesystem", lambda _: "ext4")


def test_both_sides_see_the_same_fields(tmp_path: Path, mapped: None) -> None:
    page = StatusPage.create(tmp_path)
    on_disk = PageOnDisk(tmp_path)
    assert (on_disk.fields[MAGIC_FIELD], on_disk.fields[PID]) == (MAGIC, os.getpid())
    page.fields[STEP] = 7
    StatusPageFile(tmp_path).acknowledge(8)
    assert (on_disk.fields[STEP], page.fields[ACKED_SEQ]) == (7, 8)
    assert (tmp_path / "page").stat().st_size == PAGE_BYTES


def test_without_a_file_the_fields_are_in_memory(tmp_path: Path) -> None:
    page = StatusPage.create(tmp_path / "missing")
    page.fields[STEP] = 7
    page.sync()
    assert page.fields[STEP] == 7


def test_on_a_full_disk_the_fields_are_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store into the mapping of a file without blocks would be a SIGBUS."""
    monkeypatch.setattr(os, "pwrite", lambda *given: 100)
    page = StatusPage.create(tmp_path)
    page.fields[STEP] = 7
    assert StatusPageFile(tmp_path).read() is None


@pytest.mark.parametrize("kind", ["btrfs", "overlay", "nfs4", ""])
def test_where_a_mapped_store_could_kill_the_fields_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Copy-on-write file systems take a new block for a store, and have none on a full disk."""
    monkeypatch.setattr(page_module, "filesystem", lambda _: kind)
    page = StatusPage.create(tmp_path)
    on_disk, file = PageOnDisk(tmp_path), StatusPageFile(tmp_path)
    try:
        page.fields[STEP] = 7
        file.acknowledge(8)
        assert (on_disk.fields[STEP], page.fields[ACKED_SEQ]) == (0, 0)
        page.sync()
        assert (on_disk.fields[STEP], page.fields[ACKED_SEQ]) == (7, 8)
        page.close()
        page.fields[STEP] = 9
        page.sync()
        assert (on_disk.fields[STEP], page.fields[STEP]) == (7, 9)
    finally:
        page.close()


def test_a_page_that_cannot_be_mapped_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped: None
) -> None:
    def fail(*given: object) -> None:
        raise OSError

    monkeypatch.setattr(page_module, "_map", fail)
    page = StatusPage.create(tmp_path)
    page.fields[STEP] = 7
    page.sync()
    assert PageOnDisk(tmp_path).fields[STEP] == 7
    page.close()


def test_a_mapped_page_holds_no_descriptor(tmp_path: Path, mapped: None) -> None:
    """A script that closes all descriptors must not be left with one that closes its own."""
    before = set(Path("/proc/self/fd").iterdir())
    page = StatusPage.create(tmp_path)
    assert set(Path("/proc/self/fd").iterdir()) == before
    page.fields[STEP] = 7
    assert page.fields[STEP] == 7
