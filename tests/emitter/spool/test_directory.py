"""The streams in a spool, and how far each was confirmed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside.emitter.spool import directory
from lineside.emitter.spool.status_page import ACKED_SEQ
from lineside.emitter.spool.writer import SpoolWriter
from tests.emitter.spool.spools import STREAM


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[SpoolWriter]:
    writer = SpoolWriter(tmp_path, STREAM)
    yield writer
    writer.close()


def test_streams_are_found_among_other_files(tmp_path: Path, writer: SpoolWriter) -> None:
    for name in ("shipper.log", "run/notes.txt", "run/rank0/.a2.17/lock", "run/rank0/-x/page"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "run/rank0/link").symlink_to(tmp_path)
    assert list(directory.streams(tmp_path)) == [(STREAM, writer.folder.path)]
    assert list(directory.streams(tmp_path / "missing")) == []


def test_the_confirmed_seq_is_the_higher_of_the_pages_and_the_files(writer: SpoolWriter) -> None:
    folder = writer.folder.path
    assert directory.acked_seq(folder) == 0
    directory.write_acked_file(folder, 3)
    assert directory.acked_seq(folder) == 3
    writer.fields[ACKED_SEQ] = 5
    assert directory.acked_seq(folder) == 5
    (folder / "page").unlink()
    assert directory.acked_seq(folder) == 3
    (folder / directory.ACKED_NAME).write_text("three")
    assert directory.acked_seq(folder) == 0
