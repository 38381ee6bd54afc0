"""Health routes: the store is readable, and the recorder keeps up with the bus."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from lineside.bus.client.reader import Reader
from lineside.bus.errors import BrokerUnreachable, KeyRefused, LinesideError
from lineside.bus.protocol.messages import LIVE
from lineside.dashboard.api.models import Check, Readiness
from lineside.dashboard.auth.caller import caller
from lineside.dashboard.backend.store_access import StoreAccess
from lineside.dashboard.http.responses import StrictJSONResponse, json_response

BEHIND_SECONDS = 10.0
"""Age of an event in the journal from which the store must have it."""
_TIMEOUT = 0.5  # seconds for the broker's answer
_CACHE_SECONDS = 1.0


class RecorderCheck:
    """Compares the head of the broker's journal with the offset in the store.

    The recorder is behind if the store lacks what the journal held ``BEHIND_SECONDS`` ago, so the
    first check always passes.
    """

    def __init__(
        self, store: StoreAccess, broker: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._broker = broker
        self._clock = clock
        self._lock = threading.Lock()
        self._pending_head: tuple[str, int, float] | None = None  # journal, head, time
        self._check: tuple[float, Check] | None = None

    def check(self) -> Check:
        """The current check; it asks the broker at most once a second."""
        with self._lock:
            now = self._clock()
            if self._check is None or now - self._check[0] > _CACHE_SECONDS:
                self._check = now, self._compare(now)
            return self._check[1]

    def _compare(self, now: float) -> Check:
        try:
            # No stream has this name: the broker answers the subscription and delivers nothing.
            with Reader(self._broker, start=LIVE, streams=("_none/_/_",), credit=1) as reader:
                reader.wait_connected(_TIMEOUT)
                journal, head = reader.journal or "", reader.head
        except KeyRefused as error:
            return Check(ok=True, detail=f"Unknown: {error}")
        except BrokerUnreachable:
            self._pending_head = None
            detail = f"No broker answers at {self._broker}; recorded runs can be read."
            return Check(ok=True, detail=detail)
        except LinesideError as error:
            return Check(ok=True, detail=f"Unknown: {error}")
        offset = self._store.offset(journal)
        if (
            self._pending_head is None
            or self._pending_head[0] != journal
            or offset >= self._pending_head[1]
        ):
            self._pending_head = journal, head, now
            return Check(ok=True, detail="The recorder keeps up.")
        behind = now - self._pending_head[2]
        detail = f"The recorder is at offset {offset} of {head}, behind for {behind:.0f} s."
        return Check(ok=behind < BEHIND_SECONDS, detail=detail)


def router(store: StoreAccess, broker: str) -> APIRouter:
    """``/healthz`` and ``/readyz``."""
    routes = APIRouter(tags=["health"])
    recorder_check = RecorderCheck(store, broker)

    @routes.get("/healthz", response_model=dict[str, bool], summary="The process responds")
    async def healthz() -> Any:
        return {"ok": True}

    @routes.get(
        "/readyz",
        response_model=Readiness,
        response_class=StrictJSONResponse,
        responses={503: {"model": Readiness, "description": "Not ready; `checks` has the reason."}},
        summary="The dashboard is ready",
    )
    def readyz(request: Request) -> Response:
        checks = {}
        try:
            store.history.runs(limit=1)
            checks["store"] = Check(ok=True, detail="The run history can be read.")
            checks["recorder"] = recorder_check.check()
        except LinesideError as error:
            checks["store"] = Check(ok=False, detail=str(error))
        ready = all(check.ok for check in checks.values())
        if caller(request) is None:  # any client may ask, and details name paths
            checks = {name: Check(ok=check.ok, detail="") for name, check in checks.items()}
        return json_response(Readiness(ready=ready, checks=checks), status=200 if ready else 503)

    return routes
