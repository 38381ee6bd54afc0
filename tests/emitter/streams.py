"""The events of one stream, and what the process that publishes them holds open."""

from __future__ import annotations

from typing import Any

from lineside.bus.protocol.events import Event
from lineside.emitter.training import shutdown
from lineside.emitter.training.publisher import Publisher
from tests.emitter.spool.spools import PageOnDisk


def only(streams: dict[str, list[Event]]) -> list[Event]:
    [events] = streams.values()
    return events


def kinds(events: list[Event]) -> list[str]:
    return [event.kind for event in events]


def data_of(event: Event) -> dict[str, Any]:
    assert event.data is not None
    return dict(event.data)


def close_all() -> None:
    for run in list(shutdown._state.open):
        run.close("exit")


def open_page() -> PageOnDisk:
    return PageOnDisk(open_publisher()._spool.folder.path)


def open_publisher() -> Publisher:
    [publisher] = [one for one in shutdown._state.open if isinstance(one, Publisher)]
    return publisher
