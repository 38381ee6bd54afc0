"""The page of shared memory: it never fails the trainer, and tells a reader what is no page."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from lineside.emitter.page import ACKED_SEQ, MAGIC, MAGIC_WORD, PAGE_BYTES, PID, STEP, Page


def test_both_sides_see_the_same_words(tmp_path: Path) -> None:
    ours = Page.create(tmp_path)
    theirs = Page.open(tmp_path)
    assert theirs is not None
    assert (theirs.words[MAGIC_WORD], theirs.words[PID]) == (MAGIC, os.getpid())
    ours.words[STEP] = 7
    theirs.words[ACKED_SEQ] = 8
    assert (theirs.words[STEP], ours.words[ACKED_SEQ]) == (7, 8)
    ours.flush()
    ours.close()
    theirs.close()
    assert (tmp_path / "page").stat().st_size == PAGE_BYTES


def test_without_a_file_the_words_are_in_memory(tmp_path: Path) -> None:
    page = Page.create(tmp_path / "missing")
    page.words[STEP] = 7
    page.flush()
    assert page.words[STEP] == 7
    page.close()


def test_on_a_full_disk_the_words_are_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Storing through the mapping of a file without blocks would be a SIGBUS."""
    monkeypatch.setattr(os, "pwrite", lambda *given: 100)
    page = Page.create(tmp_path)
    page.words[STEP] = 7
    assert Page.open(tmp_path) is None
    page.close()


def test_what_is_no_page_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Page.open(tmp_path) is None
    for content in (b"", b"short", bytes(PAGE_BYTES)):
        (tmp_path / "page").write_bytes(content)
        assert Page.open(tmp_path) is None

    def fail(*given: object) -> None:
        raise OSError

    monkeypatch.setattr(mmap, "mmap", fail)
    assert Page.open(tmp_path) is None
