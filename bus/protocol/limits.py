"""The limits on one record's body, and checks of them that build as little as possible."""

from __future__ import annotations

from typing import Any

import msgpack

from lineside.bus.errors import WireError

MAX_RECORD = 1 << 20
"""Bytes of body a record may have (1 MiB). A producer shortens a longer event."""
MAX_CONTAINERS = 32_768
"""Maps and lists a record may have. Each takes one byte at least, and some 100 once decoded."""
MAX_DEPTH = 100
"""How deep maps and lists of a record may be nested."""

# Every byte that does not begin a map or a list in msgpack.
_NO_CONTAINER = bytes(
    byte for byte in range(256) if not (0x80 <= byte <= 0x9F or 0xDC <= byte <= 0xDF)
)


class LimitExceeded(WireError):
    """A record that is valid msgpack and beyond the limits."""


def check_container_count(body: bytes) -> None:
    """Check the number of maps and lists; almost every body is long known to have few.

    Raises:
        LimitExceeded: there are more than ``MAX_CONTAINERS``.
        ValueError: not msgpack.
    """
    if _most_containers(body) > MAX_CONTAINERS:
        counter = _Counter()
        try:
            # Each map or list is dropped as soon as it is counted.
            msgpack.unpackb(
                body, object_hook=counter.count, list_hook=counter.count, strict_map_key=False
            )
        except LimitExceeded:
            raise
        except Exception as error:  # msgpack raises a dozen unrelated types
            raise ValueError(f"not msgpack: {str(error) or type(error).__name__}") from error


def check_depth(body: bytes, value: object) -> None:
    """Check how deep ``value``, decoded from ``body``, is nested.

    Raises:
        LimitExceeded: it is deeper than ``MAX_DEPTH``.
    """
    if _most_containers(body) <= MAX_DEPTH:
        return
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return
    raise LimitExceeded(f"maps and lists are nested more than {MAX_DEPTH} deep")


def _most_containers(body: bytes) -> int:
    """A number of maps and lists that ``body`` cannot exceed."""
    size = len(body)
    return size if size <= MAX_DEPTH else len(body.translate(None, _NO_CONTAINER))


class _Counter:
    def __init__(self) -> None:
        self._count = 0

    def count(self, _: Any) -> None:
        self._count += 1
        if self._count > MAX_CONTAINERS:
            raise LimitExceeded(f"more than {MAX_CONTAINERS} maps and lists")
