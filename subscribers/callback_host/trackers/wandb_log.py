"""Reads the rows of a ``.wandb`` file: W&B's own record of a run, from which it uploads.

It is a log in LevelDB's format: blocks of 32 KiB, chunks with a checksum, a length and a type.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK = 32768
_FILE_HEADER = 7
_CHUNK_HEADER = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


class WandbLog:
    """A file that grows: each record is read once, as soon as it is whole."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._position = _FILE_HEADER  # of the first record that was not read

    def records(self) -> Iterator[Any]:
        """The records that are new, as ``Record`` messages."""
        from wandb.proto.wandb_internal_pb2 import Record

        for payload in self.payloads():
            record = Record()
            record.ParseFromString(payload)
            yield record

    def rows(self) -> Iterator[dict[str, Any]]:
        """The new rows of the history, with W&B's own ``_step`` and ``_timestamp``."""
        for record in self.records():
            if record.WhichOneof("record_type") == "history":
                yield {
                    "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                    for item in record.history.item
                }

    def payloads(self) -> Iterator[bytes]:
        """The bytes of each new record."""
        if not self.file.is_file() or self.file.stat().st_size <= self._position:
            return
        start = self._position
        with self.file.open("rb") as file:
            file.seek(start)
            data = file.read()
        at, parts = 0, b""
        while at + _CHUNK_HEADER.size <= len(data):
            left = _BLOCK - (start + at) % _BLOCK
            if left < _CHUNK_HEADER.size:
                at += left
                continue
            _, length, kind = _CHUNK_HEADER.unpack_from(data, at)
            chunk, end = at + _CHUNK_HEADER.size, at + _CHUNK_HEADER.size + length
            if kind == 0 or end > len(data):
                return  # not written yet
            at = end
            parts = data[chunk:end] if kind in (_FULL, _FIRST) else parts + data[chunk:end]
            if kind in (_FULL, _LAST):
                self._position = start + at
                yield parts
