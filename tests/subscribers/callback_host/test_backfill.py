"""Recorded attempts through a callback in a process of its own."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside.bus.callback_config import parse_entries
from lineside.bus.errors import UsageError
from lineside.bus.protocol.events import Event, Stream
from lineside.bus.settings import Settings
from lineside.subscribers.callback_host.backfill import Backfill, Progress, UploadFailed
from lineside.subscribers.callback_host.trackers.tracker import RunEnd
from lineside.subscribers.callback_host.worker_spec import callback_folder, state_path
from lineside.subscribers.state.subscriber_state import SubscriberState
from lineside.subscribers.testing import synthetic_run
from tests.subscribers.callback_host.host_process import (
    read_lines,
    sample,
    steps_of,
    wait_for_hook,
)

FIRST, SECOND = "20260101T000001.000-0000", "20260101T000002.000-0000"
END = RunEnd("finished", None, 1.0)


def events() -> Iterator[tuple[Stream, Event]]:
    """A run of two attempts, of 4 and 3 steps."""
    for attempt, steps in ((FIRST, 4), (SECOND, 3)):
        for stream, event in synthetic_run(steps, run="old", evaluate_every=steps):
            yield stream._replace(attempt=attempt), event


def backfill(settings: Settings, name: str, file: Path) -> Backfill:
    [entry] = parse_entries([sample(name, args={"file": str(file)})])
    return Backfill(settings, entry, "old")


def test_each_attempt_is_sent_once_in_a_process_of_its_own(
    settings: Settings, tmp_path: Path
) -> None:
    one, seen = backfill(settings, "Appender", tmp_path / "lines"), list[Progress]()
    assert one.missing([FIRST, SECOND]) == [FIRST, SECOND]

    assert one.send(FIRST, events, END, seen.append) == 19

    assert one.missing([FIRST, SECOND]) == [SECOND]
    assert [(line.hook, line.step) for line in read_lines(tmp_path / "lines")] == [
        ("begin", 0),
        *[("log", step) for step in (1, 2, 3, 4)],
        ("evaluate", 4),
        ("end", 4),
    ]
    assert 0 <= seen[-1].step <= 4

    one.send(SECOND, events, END, seen.append)

    assert one.missing([FIRST, SECOND]) == []
    lines = read_lines(tmp_path / "lines")
    assert steps_of(lines) == [1, 2, 3, 4, 1, 2, 3]
    assert len({line.pid for line in lines}) == 2


def test_an_upload_goes_on_where_its_process_was_killed(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "lines"
    one = backfill(settings, "Slow", file)

    def kill() -> None:
        os.kill(wait_for_hook(file, "log", 2)[-1].pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    one.send(FIRST, events, END, lambda _: None)
    thread.join()

    steps = steps_of(read_lines(file))
    assert sorted(set(steps)) == [1, 2, 3, 4]
    assert len(steps) <= 5  # the call in which it was killed is made again


def test_events_that_a_callback_fails_on_are_counted(settings: Settings, tmp_path: Path) -> None:
    [entry] = parse_entries([sample("Raiser")])
    one = Backfill(settings, entry, "old")

    one.send(FIRST, events, END, lambda _: None)

    assert sum(one.skipped.values()) > 0
    assert one.log_path.is_file()


def test_a_callback_that_cannot_be_made_is_an_error_with_its_reason(settings: Settings) -> None:
    [entry] = parse_entries([sample("Appender")])

    with pytest.raises(UploadFailed, match=r"Appender: .*file"):
        Backfill(settings, entry, "old").send(FIRST, events, END, lambda _: None)


def test_a_run_that_is_being_sent_is_refused(settings: Settings, tmp_path: Path) -> None:
    one = backfill(settings, "Appender", tmp_path / "lines")
    state_file = SubscriberState(state_path(callback_folder(settings.home, "Appender", "old")))

    with pytest.raises(UsageError, match="Appender is being sent run old now"):
        one.missing([FIRST])
    state_file.close()
