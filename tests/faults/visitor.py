"""Acts as an open dashboard page: requests as a browser makes them, and a live stream."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import TracebackType

import httpx

from tests.support.waiting import DEADLINE, wait_until

_PAUSE = 0.02  # a browser leaves the machine some time too
_PAGES = ("/", "/api/runs", "/api/runs?sort=-step&limit=10", "/healthz", "/readyz")
_RUN_PAGES = (
    "/runs/{run}",
    "/api/runs/{run}",
    "/api/runs/{run}/metrics",
    "/api/runs/{run}/events",
    "/api/runs/{run}/account",
    "/api/runs/{run}/timing",
)


class Visitor:
    """Requests every page about ``runs`` from the dashboard at ``address``, again and again.

    ``answers`` counts each status code, ``changes`` the messages of the live stream. ``errors`` are
    failures of the connection itself.
    """

    def __init__(self, address: str, runs: Sequence[str]) -> None:
        self.address = address
        self.answers: dict[int, int] = {}
        self.changes = 0
        self.errors: list[str] = []
        self._runs = runs
        self._ended = threading.Event()
        self._client = httpx.Client(base_url=address, timeout=DEADLINE)
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), daemon=True)
            for work in (self._browse, self._listen)
        ]

    def __enter__(self) -> Visitor:
        wait_until(self._is_up, "the dashboard answers")
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._client.close()

    def _is_up(self) -> bool:
        try:
            return self._client.get("/healthz").status_code < 600
        except httpx.TransportError:
            return False

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except httpx.HTTPError as error:
            self.errors.append(repr(error))

    def _browse(self) -> None:
        while not self._ended.is_set():
            for run in self._runs:
                for path in (*_PAGES, *_RUN_PAGES):
                    code = self._client.get(path.format(run=run)).status_code
                    self.answers[code] = self.answers.get(code, 0) + 1
                    if self._ended.wait(_PAUSE):
                        return

    def _listen(self) -> None:
        with httpx.stream("GET", f"{self.address}/api/live", timeout=DEADLINE) as stream:
            for line in stream.iter_lines():
                self.changes += line.startswith("data:")
                if self._ended.is_set():
                    return
