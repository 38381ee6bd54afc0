"""The event loop that runs the ``async`` handlers of all runs, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from typing import Any

_JOIN_SECONDS = 5.0


class EventLoop:
    """Starts with the first awaitable. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def wait_for(self, awaitable: Awaitable[Any]) -> Any:
        """The result of ``awaitable``, or what it raises."""

        async def result() -> Any:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(result(), self._started()).result()

    def close(self) -> None:
        """Cancel what still runs, and end the thread."""
        loop, thread = self._loop, self._thread
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_JOIN_SECONDS)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._run, name="asyncio", daemon=True)
                self._thread.start()
            return self._loop

    def _run(self) -> None:
        loop = self._loop
        if loop is None:
            return
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        finally:
            loop.close()
