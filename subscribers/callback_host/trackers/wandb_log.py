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


def records(file: Path) -> Iterator[Any]:
    """The records of a file as far as it is written, as ``Record`` messages."""
    from wandb.proto.wandb_internal_pb2 import Record

    for data in _payloads(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        yield record


def history_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The rows that were logged, with W&B's own ``_step`` and ``_timestamp``."""
    for record in records(file):
        if record.WhichOneof("record_type") == "history":
            yield {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                for item in record.history.item
            }


def _payloads(data: bytes) -> Iterator[bytes]:
    at, parts = _FILE_HEADER, b""
    while at + _CHUNK_HEADER.size <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _CHUNK_HEADER.size:
            at += left
            continue
        _, length, kind = _CHUNK_HEADER.unpack_from(data, at)
        start = at + _CHUNK_HEADER.size
        if kind == 0 or start + length > len(data):
            return  # not written yet
        at = start + length
        parts = data[start:at] if kind in (_FULL, _FIRST) else parts + data[start:at]
        if kind in (_FULL, _LAST):
            yield parts
