"""Pages and stream facts as other processes read them, damaged ones included."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lineside.emitter.spool.status_page import PAGE_BYTES
from lineside.emitter.spool.status_reader import StatusPageFile, StreamInfo
from tests.emitter.shipping import Bench


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"pid": null, "host": 3}', b'{"pid": "x", "host": "y"}']
)
def test_damaged_facts_are_ignored(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "stream.json").write_bytes(content)
    info = StreamInfo.read(tmp_path)
    assert info == (0, "")
    assert not info.is_local


@pytest.mark.parametrize("content", [None, b"", b"short", b"x" * 100, bytes(PAGE_BYTES)])
def test_a_damaged_page_is_not_read(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "page").write_bytes(content)
    assert StatusPageFile(tmp_path).read() is None


def test_a_page_cut_short_meanwhile_is_not_read(bench: Bench) -> None:
    producer = bench.producer()
    page = StatusPageFile(producer.folder)
    assert page.read() is not None
    os.truncate(producer.folder / "page", 0)
    assert page.read() is None
    page.mark_shipper_alive(1)
    page.acknowledge(1)
    producer.kill()
    assert page.read() is None
