"""``lineside alerts``: open alerts, acknowledgements and mutes."""

from __future__ import annotations

import re
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lineside.bus.errors import AlertNotFound, StoreError, UsageError
from lineside.bus.protocol.alerts import Acknowledgement, Mute, Response, Unmute
from lineside.bus.settings import Settings
from lineside.cli.output import JsonOption, local_time, print_json, table, warn
from lineside.cli.run_lookup import open_history, resolve_run

if TYPE_CHECKING:
    from lineside.store.history.alerts import AlertHistory
    from lineside.store.history.records import Alert, AlertMute

Action = Literal["list", "ack", "mute", "unmute"]
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(rf"([0-9]+(?:\.[0-9]+)?)([{''.join(_SECONDS)}])")
_MAX_SECONDS = 31_536_000
_ALTERNATIVE = "or name the whole id of a run with --run"


def alerts(
    action: Annotated[Action, typer.Argument(help="The action.")] = "list",
    name: Annotated[
        str, typer.Argument(metavar="[ID]", help="Id of an alert; of unmute, of a mute.")
    ] = "",
    everything: Annotated[
        bool, typer.Option("--all", help="List closed alerts too; of mute: mute every alert.")
    ] = False,
    run: Annotated[str | None, typer.Option(metavar="RUN", help="Only this run's.")] = None,
    rule: Annotated[str | None, typer.Option(help="Only this rule's.")] = None,
    severity: Annotated[
        str | None, typer.Option(help="List only these: critical, warning or info.")
    ] = None,
    duration: Annotated[
        str | None,
        typer.Option("--for", metavar="TIME", help="Mute for so long: 30m, 8h, 1d."),
    ] = None,
    note: Annotated[str, typer.Option(help="A note, kept with the answer.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="List at most this many.")] = 50,
    cursor: Annotated[
        str | None, typer.Option(help="Continue an earlier list: its `next`.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List open alerts, acknowledge one, mute and unmute.

    An acknowledged alert gets no more reminders; a muted one is shown and sends nothing. Examples:
    `lineside alerts ack 3f2a`, `lineside alerts mute 3f2a --for 8h`, `lineside alerts mute --rule
    gpu_idle --run latest`.
    """
    if action == "list":
        if name or duration is not None or note:
            raise UsageError("alerts list: expected no id, --for or --note")
        _list(everything, run, rule, severity, limit, cursor, json)
        return
    if action == "ack":
        target, response = _acknowledgement(name, run, note)
    elif action == "mute":
        target, response = _mute(name, run, rule, duration, note, everything)
    else:
        target, response = _unmute(name)
    _respond(target, response)
    if json:
        print_json({"run": target, "kind": response.kind, **response.to_data()})
    else:
        typer.echo(_done(target, response))


def _list(
    everything: bool,
    run: str | None,
    rule: str | None,
    severity: str | None,
    limit: int,
    cursor: str | None,
    json: bool,
) -> None:
    history = open_history()
    page = history.alerts.page(
        state=None if everything else "open",
        run=None if run is None else history.find(run).id,
        rule=rule,
        severity=severity,
        limit=limit,
        cursor=cursor,
    )
    mutes = history.alerts.mutes()
    if json:
        from lineside.dashboard.api import alert_models as models

        items = [models.Alert.from_store(found).model_dump(mode="json") for found in page.items]
        muted = [models.AlertMute.model_validate(one).model_dump(mode="json") for one in mutes]
        print_json({"items": items, "next": page.next, "mutes": muted})
        return
    if page.items:
        now = datetime.now(timezone.utc)
        header = ("ID", "SEVERITY", "STATE", "RULE", "RUN", "OPENED", "SUMMARY")
        typer.echo(table(header, [_row(alert, now) for alert in page.items]))
    else:
        filtered = run or rule or severity
        warn("no alerts" + (" match" if filtered else "" if everything else " are open"))
    if mutes:
        typer.echo()
        titles = ("MUTE", "RULE", "RUN", "UNTIL", "BY", "NOTE")
        typer.echo(table(titles, [_mute_row(mute) for mute in mutes]))
    if page.next:
        warn(f"more alerts: use --limit, or --cursor {page.next}")


def _row(alert: Alert, now: datetime) -> tuple[str, ...]:
    from lineside.dashboard import formatting

    state = alert.state
    if alert.is_open and (alert.acknowledged_at or alert.mute):
        state = "acknowledged" if alert.acknowledged_at else "muted"
    rule = f"{alert.rule} ({alert.subject})" if alert.subject else alert.rule
    opened = formatting.ago(alert.opened_at, now)
    return (alert.id, alert.severity, state, rule, alert.run or "", opened, alert.summary)


def _mute_row(mute: AlertMute) -> tuple[str, ...]:
    until = local_time(mute.until) if mute.until else "unmuted"
    return (mute.id, mute.rule or "every rule", mute.run or "every run", until, mute.by, mute.note)


def _acknowledgement(alert_id: str, run: str | None, note: str) -> tuple[str | None, Response]:
    if not alert_id:
        raise UsageError("alerts ack: ID is missing; `lineside alerts` lists the open ones")
    if run is not None:  # works without a store
        return resolve_run(run, _ALTERNATIVE)[0], Acknowledgement(alert_id, note=note)
    alert = _look_up(alert_id)
    return alert.run, Acknowledgement(alert.id, note=note)


def _mute(
    alert_id: str,
    run: str | None,
    rule: str | None,
    duration: str | None,
    note: str,
    everything: bool,
) -> tuple[str | None, Response]:
    if sum((bool(alert_id), bool(run or rule), everything)) != 1:
        expected = "the ID of an alert; or --run, --rule or both; or --all"
        raise UsageError(f"alerts mute: expected {expected}")
    until = None if duration is None else time.time() + _parse_duration(duration)
    if alert_id:
        alert = _look_up(alert_id)
        return alert.run, Mute(alert.rule, until, note=note)
    target = None if run is None else resolve_run(run, _ALTERNATIVE)[0]
    return target, Mute(rule, until, note=note)


def _unmute(name: str) -> tuple[str | None, Response]:
    if not name:
        raise UsageError("alerts unmute: ID is missing; `lineside alerts` lists the mutes")
    found = open_history().alerts
    for mute in found.mutes():
        if mute.id == name:
            return mute.run, Unmute(mute.id)
    alert_mute = _find(found, name).mute
    if alert_mute is None:
        raise AlertNotFound("mute that holds", name)
    return alert_mute.run, Unmute(alert_mute.id)


def _look_up(alert_id: str) -> Alert:
    try:
        found = open_history().alerts
    except StoreError as error:
        raise StoreError(f"{error}; {_ALTERNATIVE}") from error
    return _find(found, alert_id)


def _find(found: AlertHistory, alert_id: str) -> Alert:
    """The alert with this id, or the only open one whose id begins so."""
    try:
        return found.get(alert_id)
    except AlertNotFound:
        matches = [one for one in found.open() if one.id.startswith(alert_id)]
        if len(matches) == 1:
            return matches[0]
        if not matches:
            raise
    ids = ", ".join(one.id for one in matches[:4])
    raise UsageError(f"{alert_id!r} matches several alerts ({ids}): give more of the id")


def _respond(run: str | None, response: Response) -> None:
    from lineside.bus.client.command_client import CommandClient

    with CommandClient(Settings.from_env().broker) as client:
        client.respond(run, response)


def _done(run: str | None, response: Response) -> str:
    if isinstance(response, Acknowledgement):
        return f"acknowledged {response.alert}"
    if isinstance(response, Unmute):
        return f"unmuted {response.mute}"
    what = f"{response.rule or 'every rule'} in {run or 'every run'}"
    until = datetime.fromtimestamp(response.until, timezone.utc) if response.until else None
    end = f"until {local_time(until)}" if until else f"until `lineside alerts unmute {response.id}`"
    return f"muted {what} {end}"


def _parse_duration(text: str) -> float:
    found = _DURATION.fullmatch(text.strip().lower())
    seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
    if not 1 <= seconds <= _MAX_SECONDS:
        raise UsageError(f"--for {text!r}: expected a time of 1s to 365d, as 30m, 8h or 1d")
    return seconds
