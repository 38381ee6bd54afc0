"""What the fields of an event may be: producers keep to it, and the recorder checks it."""

from __future__ import annotations

from typing import TypeGuard

from lineside.bus.protocol.events import UNREADABLE, Event

NAME_LENGTH = 255
"""The most characters of a metric name or event kind, so that it can be indexed."""
INT_MAX = (1 << 63) - 1
LAST_SECOND = 253_402_300_799.0
"""The end of the year 9999, the last that ``datetime`` represents."""


def is_int64(value: object) -> TypeGuard[int]:
    """Whether ``value`` is an integer that fits a 64-bit column."""
    return isinstance(value, int) and -INT_MAX <= value <= INT_MAX


def is_epoch(value: float | None) -> bool:
    """Whether ``value`` can be stored as an epoch: None, or a finite number within 64 bits."""
    return value is None or -INT_MAX <= value <= INT_MAX


def is_timestamp(value: float) -> bool:
    """Whether ``value``, seconds since the epoch, is a date up to ``LAST_SECOND``."""
    return 0.0 <= value <= LAST_SECOND


def is_name(text: object) -> bool:
    """Whether ``text`` fits an indexed name column of each database."""
    return (
        isinstance(text, str)
        and 0 < len(text) <= NAME_LENGTH
        and "\0" not in text
        and (text.isascii() or text.encode("utf-8", "replace").decode() == text)
    )


def field_problem(event: Event) -> str | None:
    """Which of the event's own fields cannot be stored, and why; None if all can."""
    if event.kind == UNREADABLE:
        return f"the event cannot be read: {(event.data or {}).get('why')}"
    if not is_timestamp(event.time):
        return f"time {event.time!r} is not a date"
    if not (is_int64(event.step) and is_int64(event.monotonic_ns) and is_int64(event.control)):
        return "step, monotonic_ns or control is beyond 64 bits"
    if not is_epoch(event.epoch):
        return f"epoch {event.epoch!r:.80} is not a number that can be stored"
    if not is_name(event.kind):
        return f"kind {event.kind!r:.80} is not a name"
    return None
