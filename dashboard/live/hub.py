"""Server-sent events: one poller of the store serves every open page."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from anyio import to_thread

from lineside.bus.errors import LinesideError

log = logging.getLogger("lineside")

QUEUE_LENGTH = 64
"""Changes a listener may lag behind before it receives a reset."""
_RETRY_MILLISECONDS = 2000


@dataclass(frozen=True, slots=True)
class Change:
    """Changes up to ``revision``: changed runs as documents, and ids of deleted runs.

    ``alerts``: alerts of no run, or mutes for every run, have changed.
    """

    revision: int
    runs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    deleted: frozenset[str] = frozenset()
    alerts: bool = False

    def for_run(self, run: str | None) -> Change:
        """The part that concerns ``run``; all of it for None."""
        if run is None:
            return self
        runs = {run: self.runs[run]} if run in self.runs else {}
        return Change(self.revision, runs, self.deleted & {run}, self.alerts)

    def __bool__(self) -> bool:
        return bool(self.runs or self.deleted or self.alerts)


class ChangeFeed(Protocol):
    """The source of changes. Calls may block, so the hub makes them in a thread."""

    def revision(self) -> int:
        """The current revision of the store."""

    def changes_since(self, revision: int) -> Change | None:
        """Changes after ``revision``; None if too many, or of another store."""

    def status_timeouts(self, revision: int) -> Change:
        """Runs whose status changed because time passed. The poller calls it each round."""


@dataclass(eq=False)
class _Listener:
    """One stream; its queue has only changes of ``run``, so silence is silence of that run."""

    run: str | None
    queue: asyncio.Queue[Change | None] = field(default_factory=lambda: asyncio.Queue(QUEUE_LENGTH))
    lagged: bool = False

    def put(self, change: Change) -> bool:
        """Queue what concerns this listener; false if it lags too far behind."""
        part = change.for_run(self.run)
        try:
            if part:
                self.queue.put_nowait(part)
        except asyncio.QueueFull:
            return False
        return True

    def replace_queue(self, change: Change | None) -> None:
        """Leave only ``change`` in the queue."""
        while not self.queue.empty():
            self.queue.get_nowait()
        self.queue.put_nowait(change)


class LiveHub:
    """Polls ``feed`` every ``interval`` seconds while a stream is open.

    ``heartbeat`` is the longest silence of a stream in seconds; ``skipped`` counts the resets of
    listeners that lagged too far behind.
    """

    def __init__(self, feed: ChangeFeed, *, interval: float = 0.5, heartbeat: float = 10.0) -> None:
        self._feed = feed
        self._interval = interval
        self._heartbeat = heartbeat
        self._listeners: set[_Listener] = set()
        self._poller: asyncio.Task[None] | None = None
        self._closed = False
        self.skipped = 0

    @property
    def listeners(self) -> int:
        """Number of open streams."""
        return len(self._listeners)

    def close(self) -> None:
        """End every stream. Call it in the event loop's thread."""
        self._closed = True
        for listener in self._listeners:
            listener.replace_queue(None)

    async def stream(
        self, after: int | None = None, run: str | None = None
    ) -> AsyncGenerator[str, None]:
        """The stream's text: a hello, changes after revision ``after``, then live changes.

        With ``after`` None the stream starts now. ``run`` limits it to one run.
        """
        with self._listening(run) as listener:
            try:
                sent = await to_thread.run_sync(self._feed.revision)
                missed = await self._missed(after)
            except LinesideError as error:
                log.warning("dashboard: a live stream cannot start: %s", error)
                return
            self._ensure_poller(sent)
            yield f"retry: {_RETRY_MILLISECONDS}\n" + _message("hello", sent, {"revision": sent})
            if missed is None:
                yield _reset(sent, f"revision {after} is too old, or of another store")
            elif missed.for_run(run):
                yield _changes(missed.for_run(run))
            while not self._closed:
                try:
                    change = await asyncio.wait_for(listener.queue.get(), self._heartbeat)
                except asyncio.TimeoutError:
                    yield ": heartbeat\n\n"
                    continue
                if change is None:
                    break
                if listener.lagged:
                    listener.lagged = False
                    yield _reset(change.revision, "more changed than this stream can carry")
                elif change.revision >= sent:
                    yield _changes(change)

    async def _missed(self, after: int | None) -> Change | None:
        return (
            Change(0)
            if after is None
            else await to_thread.run_sync(self._feed.changes_since, after)
        )

    @contextmanager
    def _listening(self, run: str | None) -> Iterator[_Listener]:
        listener = _Listener(run)
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    def _ensure_poller(self, revision: int) -> None:
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll(revision))

    async def _poll(self, revision: int) -> None:
        last_error = ""
        while self._listeners and not self._closed:
            try:
                revision = await self._poll_once(revision)
                last_error = ""
            except Exception as error:  # noqa: BLE001 - a poll that fails must not end the streams
                if str(error) != last_error:
                    log.warning("dashboard: live updates are delayed: %s", error)
                    last_error = str(error)
            await asyncio.sleep(self._interval)

    async def _poll_once(self, revision: int) -> int:
        """Publish changes after ``revision``; the revision for the next poll."""
        change = await to_thread.run_sync(self._feed.changes_since, revision)
        if change is None:
            change = Change(await to_thread.run_sync(self._feed.revision))
            for listener in self._listeners:
                self._skip(listener, change)
        else:
            self._publish(change)
        self._publish(await to_thread.run_sync(self._feed.status_timeouts, change.revision))
        return change.revision

    def _publish(self, change: Change) -> None:
        for listener in self._listeners:
            if not listener.put(change):
                self._skip(listener, change)

    def _skip(self, listener: _Listener, change: Change) -> None:
        self.skipped += 1
        listener.lagged = True
        listener.replace_queue(change)


def _changes(change: Change) -> str:
    data = {
        "revision": change.revision,
        "runs": list(change.runs.values()),
        "deleted": sorted(change.deleted),
        "alerts": change.alerts,
    }
    return _message("changes", change.revision, data)


def _reset(revision: int, why: str) -> str:
    return _message("reset", revision, {"revision": revision, "why": why})


def _message(event: str, revision: int, data: Mapping[str, Any]) -> str:
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return f"id: {revision}\nevent: {event}\ndata: {text}\n\n"
