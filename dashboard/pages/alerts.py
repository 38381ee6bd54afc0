"""Alerts on the pages: the open ones of a run or of all, and the page of every alert."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeGuard
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from lineside.bus.auth.roles import CONTROL, Principal
from lineside.dashboard import formatting
from lineside.dashboard.auth.caller import caller, denial_reason
from lineside.dashboard.backend.store_access import StoreAccess
from lineside.dashboard.http.strict_json import strict
from lineside.dashboard.pages.renderer import Renderer
from lineside.store.history.alerts import AlertHistory
from lineside.store.history.records import Alert, AlertMute

SHOWN_ON_LIST, SHOWN_ON_RUN = 3, 20
"""Open alerts on the run list, and on the page of a run; the page of alerts has the others."""
_PAGE_SIZE = 50
_MAX_FACT = 4000  # characters
_SHORT = 100  # characters of a text among others on a line


@dataclass(frozen=True)
class Fact:
    """One detail of an alert; ``is_text`` is for lines of output."""

    name: str
    value: str
    is_text: bool


@dataclass(frozen=True)
class AlertRow:
    """An alert as shown; ``took`` is how long it was open."""

    record: Alert
    facts: list[Fact]
    took: str
    mute: str


def router(store: StoreAccess, renderer: Renderer) -> APIRouter:
    """The page of alerts."""
    routes = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

    @routes.get("/alerts")
    def alerts_page(
        request: Request,
        run: Annotated[str | None, Query(max_length=200)] = None,
        rule: Annotated[str | None, Query(max_length=255)] = None,
        cursor: str | None = None,
    ) -> HTMLResponse:
        revision = store.history.revision()  # before the content: the live stream misses nothing
        alerts = store.history.alerts
        run, rule = run or None, rule or None
        opened = [one for one in alerts.open(run=run) if rule in (None, one.rule)]
        closed = alerts.page(state="closed", run=run, rule=rule, limit=_PAGE_SIZE, cursor=cursor)

        def link(**changed: str | None) -> str:
            given = {"run": run, "rule": rule, **changed}
            query = urlencode({name: value for name, value in given.items() if value})
            return f"alerts?{query}" if query else "alerts"

        return renderer.page(
            request,
            "alerts.html",
            section="alerts",
            revision=revision,
            opened=[alert_row(one) for one in opened],
            closed=[alert_row(one) for one in closed.items],
            next=closed.next,
            mutes=[(one, mute_text(one)) for one in alerts.mutes() if run in (None, one.run)],
            query={"run": run, "rule": rule, "cursor": cursor},
            link=link,
            no_answer=_no_answer(caller(request)),
        )

    # Every page reads it again and again, because it is about all runs.
    @routes.get("/alerts/count")
    def alert_count(request: Request) -> HTMLResponse:
        return renderer.page(request, "alert_count.html")

    return routes


def open_alerts(
    alerts: AlertHistory, principal: Principal | None, limit: int, run: str | None = None
) -> dict[str, Any]:
    """What ``open_alerts.html`` shows: the most severe open alerts, of ``run`` or of all."""
    found = alerts.open(run=run)
    return {
        "open_alerts": [alert_row(one) for one in found[:limit]],
        "open_alerts_of": run,
        "open_alerts_count": sum(alerts.counts(run=run).values()),
        "no_answer": _no_answer(principal),
    }


def alert_row(alert: Alert) -> AlertRow:
    """The row of an alert."""
    took = ""
    if alert.closed_at is not None and alert.closed_at > alert.opened_at:
        took = formatting.duration((alert.closed_at - alert.opened_at).total_seconds())
    facts = [_fact(name, value) for name, value in alert.details.items()]
    mute = f"muted {mute_text(alert.mute)}" if alert.mute and alert.is_open else ""
    return AlertRow(alert, facts, took, mute)


def mute_text(mute: AlertMute) -> str:
    """When a mute ends, by whom it is, and why."""
    until = f"until {mute.until:%Y-%m-%d %H:%M} UTC" if mute.until else "until it is lifted"
    return f"{until} by {mute.by or formatting.UNKNOWN_ISSUER}" + (
        f": {mute.note}" if mute.note else ""
    )


def _fact(name: str, value: object) -> Fact:
    is_text = False
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        value, is_text = "\n".join(value), True
    if isinstance(value, str):
        text, is_text = value, is_text or "\n" in value
    elif _is_numeric(value):
        text = formatting.number(value)
    elif isinstance(value, Mapping) and all(map(_is_short, value.values())):
        text = ", ".join(f"{key} {_short(one)}" for key, one in value.items())
    else:
        text = json.dumps(strict(value)[0], ensure_ascii=False)
    label, text = strict([name.replace("_", " "), text[:_MAX_FACT]])[0]
    return Fact(label, text, is_text)


def _is_short(value: object) -> bool:
    return _is_numeric(value) or (isinstance(value, str) and len(value) <= _SHORT)


def _short(value: object) -> str:
    return formatting.number(value) if _is_numeric(value) else str(value)


def _is_numeric(value: object) -> TypeGuard[float]:
    """Whether ``value`` is a number, which may be NaN or infinite."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _no_answer(principal: Principal | None) -> str:
    return denial_reason(principal, "Answering alerts", CONTROL)
