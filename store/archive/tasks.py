"""Runs the tasks of a call: a few at a time, and until the caller wants it stopped."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from lineside.store.archive.errors import ArchiveStopped

_LOOK_SECONDS = 0.1
_TICK_SECONDS = 0.5

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run ``function`` in a thread. A cancelled caller goes on once the thread is done with it.

    A file that it works on can be closed then. It has to keep what it opens where the caller finds
    it, because a cancelled caller gets no value.
    """
    call = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        while not call.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({call})
        if not call.cancelled():
            call.exception()  # it was looked at
        raise


class TaskPool:
    """Runs at most ``limit`` tasks at a time. The first that fails cancels the others.

    As a context it ends when all of its tasks have; an exception in it cancels them.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task as soon as there is room for it."""
        try:
            await self._wait_for_room(self._limit - 1)
        except BaseException:
            work.close()
            raise
        self._tasks.add(asyncio.create_task(work))

    async def _wait_for_room(self, most: int) -> None:
        while len(self._tasks) > most:
            done, self._tasks = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            failed = [task for task in done if task.exception() is not None]
            for task in failed:
                task.result()

    async def __aenter__(self) -> TaskPool:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self._wait_for_room(0)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)


def run_blocking(
    work: Coroutine[Any, Any, T],
    on_tick: Callable[[], None] | None = None,
    stop: threading.Event | None = None,
) -> T:
    """Run ``work`` to its end, with ``on_tick`` twice a second in this thread.

    Raises:
        ArchiveStopped: ``stop`` was set; the work was cancelled.
    """
    return asyncio.run(_watch(work, on_tick, stop))


async def _watch(
    work: Coroutine[Any, Any, T], on_tick: Callable[[], None] | None, stop: threading.Event | None
) -> T:
    task = asyncio.ensure_future(work)
    next_tick = time.monotonic() + _TICK_SECONDS
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=_LOOK_SECONDS)
            if stop is not None and stop.is_set() and not task.done():
                raise ArchiveStopped
            if on_tick is not None and time.monotonic() >= next_tick:
                next_tick = time.monotonic() + _TICK_SECONDS
                on_tick()
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
