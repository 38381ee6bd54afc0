"""Reads alerts, with their acknowledgements and the mutes that cover them now."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Connection, Engine, Select, and_, func, or_, select

from lineside.bus.errors import AlertNotFound, UsageError
from lineside.bus.protocol.alerts import CLOSED, OPEN, SEVERITIES
from lineside.bus.protocol.events import INTERNAL_RUN
from lineside.bus.wording import did_you_mean
from lineside.store.database.engine import read_transaction
from lineside.store.database.tables import alert_mutes, alerts, runs
from lineside.store.database.values import (
    from_json,
    sanitize_text,
    to_datetime,
    to_optional_datetime,
)
from lineside.store.history.cursor import cut_page, decode_time_cursor
from lineside.store.history.records import Alert, AlertMute, Page

STATES = (OPEN, CLOSED)
_SORT = "alerts"
_MAX_LIMIT = 1000


class AlertHistory:
    """Reads the alerts of one store; each read sees it as of one moment. Any thread may use it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def page(
        self,
        *,
        state: str | None = None,
        run: str | None = None,
        rule: str | None = None,
        severity: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Alert]:
        """A page of alerts, the one opened last first.

        Raises:
            UsageError: no such state or severity, or ``cursor`` is not one of this list.
        """
        limit = min(max(1, limit), _MAX_LIMIT)
        query = _query()
        for name, value, known in (("state", state, STATES), ("severity", severity, SEVERITIES)):
            if value is not None:
                _check(name, value, known)
                query = query.where(alerts.c[name] == value)
        if run is not None:
            query = query.where(runs.c.id == sanitize_text(run))
        if rule is not None:
            query = query.where(alerts.c.rule == sanitize_text(rule))
        if cursor is not None:
            opened_at, last_id = decode_time_cursor(cursor, _SORT)
            is_same = and_(alerts.c.opened_at == opened_at, alerts.c.id < last_id)
            query = query.where(or_(alerts.c.opened_at < opened_at, is_same))
        query = query.order_by(alerts.c.opened_at.desc(), alerts.c.id.desc()).limit(limit + 1)
        with read_transaction(self._engine) as connection:
            rows = connection.execute(query).all()
            mutes = _active_mutes(connection)
        found, after = cut_page(rows, limit, _SORT, lambda row: (row.opened_at, row.id))
        return Page(tuple(_alert(row, mutes) for row in found), after)

    def open(self, *, run: str | None = None, limit: int = 200) -> list[Alert]:
        """The open alerts, the most severe first, then those that no person has answered."""
        found = self.page(state=OPEN, run=run, limit=limit).items
        return sorted(found, key=_urgency)

    def counts(self, *, run: str | None = None) -> dict[str, int]:
        """The number of open alerts of each severity that has any, the most severe first."""
        query = (
            select(alerts.c.severity, func.count().label("n"))
            .join(runs, runs.c.key == alerts.c.run_key)
            .where(alerts.c.state == OPEN, runs.c.purging.is_(False))
            .group_by(alerts.c.severity)
        )
        if run is not None:
            query = query.where(runs.c.id == sanitize_text(run))
        with read_transaction(self._engine) as connection:
            found = {row.severity: row.n for row in connection.execute(query)}
        return {severity: found[severity] for severity in SEVERITIES if severity in found}

    def get(self, alert_id: str) -> Alert:
        """One alert.

        Raises:
            AlertNotFound: there is none with this id.
        """
        query = _query().where(alerts.c.id == sanitize_text(alert_id))
        with read_transaction(self._engine) as connection:
            row = connection.execute(query.order_by(alerts.c.opened_at.desc())).first()
            mutes = _active_mutes(connection)
        if row is None:
            raise AlertNotFound("alert", alert_id)
        return _alert(row, mutes)

    def mutes(self) -> list[AlertMute]:
        """The mutes that hold now, the newest first."""
        with read_transaction(self._engine) as connection:
            return _active_mutes(connection)

    def mute(self, mute_id: str) -> AlertMute:
        """One mute that holds now.

        Raises:
            AlertNotFound: there is none with this id.
        """
        for mute in self.mutes():
            if mute.id == mute_id:
                return mute
        raise AlertNotFound("mute that holds", mute_id)


def _query() -> Select[Any]:
    columns = (runs.c.id.label("run_id"), runs.c.name.label("run_name"), runs.c.project)
    return (
        select(alerts, *columns)
        .join(runs, runs.c.key == alerts.c.run_key)
        .where(alerts.c.state.is_not(None), runs.c.purging.is_(False))
    )


def _active_mutes(connection: Connection) -> list[AlertMute]:
    mutes = alert_mutes.c
    query = (
        select(alert_mutes, runs.c.id.label("run_id"))
        .join(runs, runs.c.key == mutes.run_key)
        .where(mutes.muted_at.is_not(None), mutes.ended_at.is_(None), runs.c.purging.is_(False))
        .where(or_(mutes.until.is_(None), mutes.until > time.time()))
        .order_by(mutes.muted_at.desc(), mutes.id)
    )
    return [
        AlertMute(
            id=row.id,
            run=_run(row.run_id),
            rule=row.rule,
            muted_at=to_datetime(row.muted_at),
            until=to_optional_datetime(row.until),
            by=row.by or "",
            note=row.note or "",
        )
        for row in connection.execute(query)
    ]


def _alert(row: Any, mutes: list[AlertMute]) -> Alert:
    run = _run(row.run_id)
    return Alert(
        id=row.id,
        run=run,
        run_name=None if run is None else row.run_name or run,
        project=row.project,
        producer=row.producer,
        rule=row.rule,
        subject=row.subject,
        state=row.state,
        severity=row.severity,
        summary=row.summary,
        details=from_json(row.details) or {},
        action=row.action,
        step=row.step,
        opened_at=to_datetime(row.opened_at),
        updated_at=to_datetime(row.updated_at),
        closed_at=to_optional_datetime(row.closed_at),
        openings=row.openings,
        acknowledged_at=to_optional_datetime(row.acknowledged_at),
        acknowledged_by=row.acknowledged_by or "",
        acknowledged_note=row.acknowledged_note or "",
        mute=next((mute for mute in mutes if mute.covers(run, row.rule)), None),
    )


def _run(run_id: str) -> str | None:
    return None if run_id == INTERNAL_RUN else run_id


def _urgency(alert: Alert) -> tuple[int, bool]:
    is_answered = alert.acknowledged_at is not None or alert.mute is not None
    return SEVERITIES.index(alert.severity), is_answered


def _check(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(
            f"no alert has the {name} {value!r}: expected {', '.join(known)}"
            + did_you_mean(value, known)
        )
