"""Whether the dashboard is of use: the store can be read, and the recorder keeps up."""

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
"""How long the bus may hold an event that the store has not."""
_TIMEOUT = 0.5  # seconds a broker has to answer
_CACHE_SECONDS = 1.0  # seconds an answer stands


class RecorderCheck:
    """Asks the broker how far its journal goes and the store how much of it is recorded.

    The recorder is behind if what the journal held ``BEHIND_SECONDS`` ago is not in the store yet;
    so the first look never says it is.
    """

    def __init__(
        self, store: StoreAccess, broker: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._broker = broker
        self._clock = clock
        self._lock = threading.Lock()
        self._pending_head: tuple[str, int, float] | None = None  # journal, its head, when that was
        self._check: tuple[float, Check] | None = None

    def check(self) -> Check:
        """How it stands; at most one question a second goes to the broker."""
        with self._lock:
            now = self._clock()
            if self._check is None or now - self._check[0] > _CACHE_SECONDS:
                self._check = now, self._compare(now)
            return self._check[1]

    def _compare(self, now: float) -> Check:
        try:
            # A stream of this name cannot be: nothing is delivered, only the subscription answered.
            with Reader(self._broker, start=LIVE, streams=("_nobody/_/_",), credit=1) as reader:
                reader.wait_connected(_TIMEOUT)
                journal, head = reader.journal or "", reader.head
        except KeyRefused as error:
            return Check(ok=True, detail=f"Not known: {error}")
        except BrokerUnreachable:
            self._pending_head = None
            detail = f"No broker answers at {self._broker}: what is recorded can be read."
            return Check(ok=True, detail=detail)
        except LinesideError as error:
            return Check(ok=True, detail=f"Not known: {error}")
        offset = self._store.offset(journal)
        if (
            self._pending_head is None
            or self._pending_head[0] != journal
            or offset >= self._pending_head[1]
        ):
            self._pending_head = journal, head, now
            return Check(ok=True, detail="The recorder keeps up.")
        behind = now - self._pending_head[2]
        detail = f"The recorder has not moved past {offset} of {head} for {behind:.0f} s."
        return Check(ok=behind < BEHIND_SECONDS, detail=detail)


def router(store: StoreAccess, broker: str) -> APIRouter:
    """``/healthz`` and ``/readyz``."""
    routes = APIRouter(tags=["health"])
    recorder_check = RecorderCheck(store, broker)

    @routes.get("/healthz", response_model=dict[str, bool], summary="The process answers")
    async def healthz() -> Any:
        return {"ok": True}

    @routes.get(
        "/readyz",
        response_model=Readiness,
        response_class=StrictJSONResponse,
        responses={503: {"model": Readiness, "description": "Not of use; `checks` says why."}},
        summary="The dashboard is of use",
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
        if caller(request) is None:  # open to anybody, and details name places
            checks = {name: Check(ok=check.ok, detail="") for name, check in checks.items()}
        return json_response(Readiness(ready=ready, checks=checks), status=200 if ready else 503)

    return routes
