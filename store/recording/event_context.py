"""What event and command handlers share: the event's context, and how they refuse one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lineside.bus.protocol.events import Event
from lineside.store.database.values import sanitize_text
from lineside.store.recording.run_state import RunState, StreamState


class InvalidEventData(ValueError):
    """An event's data does not match its kind; the handler has applied nothing of it."""


class EventContext(NamedTuple):
    """An event with its run and stream; ``data`` is the event's, or empty."""

    run: RunState
    stream: StreamState
    event: Event
    data: Mapping[str, Any]


Handlers = Mapping[str, Callable[[EventContext], bool | None]]
"""Event handlers by kind. One that returns True has folded the event, which gets no row."""


def optional_text(data: Mapping[str, Any], name: str, limit: int = 4000) -> str | None:
    """The text under ``name``, at most ``limit`` characters; None if it is empty or no text."""
    value = data.get(name)
    return sanitize_text(value, limit) if isinstance(value, str) and value else None
