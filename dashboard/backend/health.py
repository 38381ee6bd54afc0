"""Health routes: the store is readable, and the recorder keeps up with the bus."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from lineside.bus.errors import LinesideError
from lineside.dashboard.api.models import Check, Readiness, Recorder
from lineside.dashboard.auth.caller import caller
from lineside.dashboard.backend.store_access import StoreAccess
from lineside.dashboard.backend.transit_reader import TransitReader
from lineside.dashboard.http.responses import StrictJSONResponse, error_responses, json_response
from lineside.dashboard.transit import RecorderLag

BEHIND_SECONDS = 10.0
"""Age of an event in the journal from which the store must have it."""


def recorder_check(lag: RecorderLag) -> Check:
    """Whether the recorder keeps up, as far as that is known."""
    return Check(ok=lag.seconds < BEHIND_SECONDS, detail=str(lag))


def router(store: StoreAccess, transit: TransitReader) -> APIRouter:
    """``/healthz``, ``/readyz`` and ``/api/recorder``."""
    routes = APIRouter(tags=["health"])

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
            checks["recorder"] = recorder_check(transit.recorder_lag())
        except LinesideError as error:
            checks["store"] = Check(ok=False, detail=str(error))
        ready = all(check.ok for check in checks.values())
        if caller(request) is None:  # any client may ask, and details name paths
            checks = {name: Check(ok=check.ok, detail="") for name, check in checks.items()}
        return json_response(Readiness(ready=ready, checks=checks), status=200 if ready else 503)

    @routes.get(
        "/api/recorder",
        response_model=Recorder,
        response_class=StrictJSONResponse,
        responses=error_responses(_503="The run history cannot be read now."),
        summary="How far the store is behind the broker",
    )
    def recorder() -> Response:
        return json_response(Recorder.from_lag(transit.recorder_lag()))

    return routes
