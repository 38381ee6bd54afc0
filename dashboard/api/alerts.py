"""The REST API of alerts: the list, acknowledgements and mutes."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated, Literal

from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from lineside.bus.errors import BusError
from lineside.bus.protocol import alerts as bus
from lineside.dashboard.api.alert_models import (
    AcknowledgeRequest,
    Alert,
    AlertMute,
    MuteRequest,
)
from lineside.dashboard.api.models import Listing
from lineside.dashboard.api.parameters import Cursor, Limit
from lineside.dashboard.auth.caller import issuer
from lineside.dashboard.backend.command_sender import CommandSender
from lineside.dashboard.backend.store_access import StoreAccess
from lineside.dashboard.http.problems import Problem
from lineside.dashboard.http.responses import StrictJSONResponse, error_responses, json_response
from lineside.store.database.values import to_datetime
from lineside.store.history import records

AlertId = Annotated[str, Path(description="The alert's id.", max_length=bus.ID_LENGTH)]
MuteId = Annotated[str, Path(description="The mute's id.", max_length=bus.ID_LENGTH)]
_NOT_SENT = "No broker accepts it, or the run history cannot be read."


def router(store: StoreAccess, sender: CommandSender) -> APIRouter:
    """``/api/alerts``."""
    routes = APIRouter(
        prefix="/api/alerts",
        tags=["alerts"],
        default_response_class=StrictJSONResponse,
        responses=error_responses(
            _400="The cursor or the body cannot be read.",
            _422="A parameter or the body is invalid.",
            _503="The run history cannot be read now.",
        ),
    )

    @routes.get("", response_model=Listing[Alert])
    def alerts(
        state: Annotated[
            Literal["open", "closed"] | None, Query(description="Only alerts in this state.")
        ] = None,
        run: Annotated[str | None, Query(description="Only alerts of this run.")] = None,
        rule: Annotated[str | None, Query(description="Only alerts of this rule.")] = None,
        severity: Annotated[
            Literal["critical", "warning", "info"] | None,
            Query(description="Only alerts of this severity."),
        ] = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Response:
        """Alerts, the one opened last first."""
        page = store.history.alerts.page(
            state=state, run=run, rule=rule, severity=severity, limit=limit, cursor=cursor
        )
        items = [Alert.from_store(found) for found in page.items]
        return json_response(Listing[Alert](items=items, next=page.next))

    @routes.get("/mutes", response_model=Listing[AlertMute])
    def mutes() -> Response:
        """The mutes that hold now, the newest first."""
        items = [AlertMute.model_validate(found) for found in store.history.alerts.mutes()]
        return json_response(Listing[AlertMute](items=items, next=None))

    @routes.post(
        "/mutes",
        status_code=202,
        response_model=AlertMute,
        responses=error_responses(
            _404="No such run.", _413="The body is too large.", _503=_NOT_SENT
        ),
    )
    async def mute(request: Request, body: MuteRequest) -> Response:
        """Send no notifications of a rule, a run, or both. Answers once the mute is stored.

        The same request with the same `id` sets one mute.
        """
        return await to_thread.run_sync(_mute, body, issuer(request), limiter=sender.threads)

    @routes.post(
        "/mutes/{mute_id}/unmute",
        status_code=202,
        response_model=AlertMute,
        responses=error_responses(_404="No such mute holds.", _503=_NOT_SENT),
    )
    async def unmute(request: Request, mute_id: MuteId) -> Response:
        """Lift a mute before its time. Answers with the mute once that is stored."""
        return await to_thread.run_sync(_unmute, mute_id, issuer(request), limiter=sender.threads)

    @routes.get(
        "/{alert_id}", response_model=Alert, responses=error_responses(_404="No such alert.")
    )
    def alert(alert_id: AlertId) -> Response:
        """One alert."""
        return json_response(Alert.from_store(store.history.alerts.get(alert_id)))

    @routes.post(
        "/{alert_id}/acknowledge",
        status_code=202,
        response_model=Alert,
        responses=error_responses(
            _404="No such alert.", _413="The body is too large.", _503=_NOT_SENT
        ),
    )
    async def acknowledge(
        request: Request, alert_id: AlertId, body: AcknowledgeRequest | None = None
    ) -> Response:
        """Report that a person has seen the alert, which gets no more reminders.

        Answers with the alert once that is stored. The first acknowledgement counts.
        """
        note = body.note if body is not None else ""
        return await to_thread.run_sync(
            _acknowledge, alert_id, note, issuer(request), limiter=sender.threads
        )

    def _acknowledge(alert_id: str, note: str, by: str) -> Response:
        found = store.history.alerts.get(alert_id)
        if found.acknowledged_at is None:
            _send(found.run, bus.Acknowledgement(found.id, by, note))
            found = replace(
                found,
                acknowledged_at=to_datetime(time.time()),
                acknowledged_by=by,
                acknowledged_note=note,
            )
        return json_response(Alert.from_store(found), status=202)

    def _mute(body: MuteRequest, by: str) -> Response:
        now = time.time()
        run = None if body.run is None else store.history.run(body.run).id
        until = None if body.seconds is None else now + body.seconds
        given = {"id": body.id} if body.id else {}
        made = bus.Mute(body.rule, until, by, body.note, **given)
        _send(run, made)
        record = records.AlertMute(
            id=made.id,
            run=run,
            rule=made.rule,
            muted_at=to_datetime(now),
            until=None if until is None else to_datetime(until),
            by=by,
            note=made.note,
        )
        return json_response(AlertMute.model_validate(record), status=202)

    def _unmute(mute_id: str, by: str) -> Response:
        found = store.history.alerts.mute(mute_id)
        _send(found.run, bus.Unmute(found.id, by))
        return json_response(AlertMute.model_validate(found), status=202)

    def _send(run: str | None, response: bus.Response) -> None:
        try:
            sender.respond(run, response)
        except BusError as error:
            detail = f"{error}. It may be sent again."
            raise Problem(503, "not-sent", "Not sent", detail) from error

    return routes
