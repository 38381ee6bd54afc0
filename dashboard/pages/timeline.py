"""Recorded events as entries of the timeline: label, text, tone and data."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from lineside.bus.protocol import commands
from lineside.bus.protocol.alerts import CLOSED, CRITICAL, OPEN, RESPONSE_KINDS, WARNING
from lineside.bus.protocol.checkpoints import STATES
from lineside.bus.protocol.event_kinds import (
    ALERT,
    ALERT_MUTED,
    CHECKPOINT_HELD,
    CHECKPOINT_REQUEST,
    CHECKPOINT_STATE,
    COUNTED,
    EVENT_KINDS,
    HIDDEN,
    PRUNED_ERROR,
    SUBSCRIBER_ERROR,
    event_kind,
)
from lineside.bus.wording import plural
from lineside.dashboard import formatting
from lineside.dashboard.http.strict_json import strict
from lineside.dashboard.pages.checkpoints import TONES
from lineside.store.database.values import to_datetime
from lineside.store.history.records import EventRow

UNLISTED_KINDS = frozenset(kind.name for kind in EVENT_KINDS if kind.timeline == COUNTED)
HIDDEN_BY_DEFAULT = frozenset(kind.name for kind in EVENT_KINDS if kind.timeline == HIDDEN)
PARTLY_LISTED_KINDS = frozenset({ALERT, CHECKPOINT_STATE})
"""Kinds of which those events are not listed that only repeat a state."""
_CHECKPOINT_KINDS = (CHECKPOINT_HELD, CHECKPOINT_STATE, CHECKPOINT_REQUEST)
_ORDER = {kind.name: place for place, kind in enumerate(EVENT_KINDS)}
_OMITTED_METRICS = re.compile(r"^epoch$|runtime|per_second|flos")
_SEVERITY_TONES = {CRITICAL: "danger", WARNING: "caution"}
_LONG_KINDS = frozenset({"run_start", "model"})  # their data is not shown
_MAX_DATA = 20_000  # characters of one event's data shown


@dataclass(frozen=True)
class TimelineEntry:
    """One event as shown. ``data`` is indented JSON; empty if ``text`` already shows all of it."""

    n: int
    kind: str
    label: str
    where: str
    text: str
    tone: str
    time: datetime
    offset: str
    data: str


@dataclass(frozen=True)
class KindFilter:
    """A kind of event that a button shows or hides."""

    name: str
    label: str
    count: int
    shown: bool


def kinds(counts: Mapping[str, int], hidden: frozenset[str]) -> list[KindFilter]:
    """The kinds of a run that the timeline lists, with their counts, in the registry's order."""
    return [
        KindFilter(name, event_kind(name).label, count, name not in hidden)
        for name, count in sorted(counts.items(), key=lambda item: _sort_key(item[0]))
        if name not in UNLISTED_KINDS
    ]


def _sort_key(name: str) -> tuple[int, str]:
    return _ORDER.get(name, len(_ORDER)), name


def entry(row: EventRow, started_at: datetime) -> TimelineEntry:
    """The entry of an event; its offset counts from ``started_at``."""
    data = row.data or {}
    step = row.step
    if row.kind in _CHECKPOINT_KINDS and isinstance(data.get("step"), int):
        step = data["step"]  # the archiver publishes at later steps
    where = [f"step {step:,}"] if step else []
    if row.producer not in ("rank0", commands.CONTROL_PRODUCER):
        where.append(row.producer)
    return TimelineEntry(
        n=row.n,
        kind=row.kind,
        label=_label(row.kind, data),
        where=" · ".join(where),
        text=row.problem or _text(row.kind, data),
        tone="caution" if row.problem else _tone(row.kind, data),
        time=row.time,
        offset=formatting.offset((row.time - started_at).total_seconds()),
        data="" if row.kind in _LONG_KINDS or not data else _indented_json(data),
    )


def _label(kind: str, data: Mapping[str, Any]) -> str:
    if kind == ALERT and data.get("state") in (OPEN, CLOSED):
        return "Alert opened" if data["state"] == OPEN else "Alert closed"
    if kind == CHECKPOINT_STATE and data.get("state") in STATES:
        return f"Checkpoint {data['state']}"
    return event_kind(kind).label


def _text(kind: str, data: Mapping[str, Any]) -> str:
    if summary := event_kind(kind).summary:
        return _metrics_text(data.get(summary))
    if kind in commands.STATE_OF_KIND:
        return _command_text(kind, data)
    text = _TEXTS.get(kind)
    return text(data) if text else ""


def _tone(kind: str, data: Mapping[str, Any]) -> str:
    if kind == "train_end":
        return "clear"
    if kind == ALERT and "state" in data:
        if data["state"] == CLOSED:
            return "clear"
        return _SEVERITY_TONES.get(str(data.get("severity")), "")
    if kind == CHECKPOINT_STATE:
        return TONES.get(str(data.get("state")), "")
    if kind in (
        ALERT,
        "gap",
        "process_lost",
        SUBSCRIBER_ERROR,
        commands.REJECTED,
        commands.EXPIRED,
    ):
        return "caution"
    error = data.get("error")
    if isinstance(error, Mapping) and error.get("type") == PRUNED_ERROR:
        return ""
    if kind == "train_error" or (kind == "run_end" and data.get("how") == "exception"):
        return "danger"
    if kind == "process_exit" and (data.get("signal") or data.get("exit_code")):
        return "danger"
    return ""


def _subscriber_text(data: Mapping[str, Any]) -> str:
    error = data.get("error")
    why = f": {error.get('type')}: {error.get('message')}" if isinstance(error, Mapping) else ""
    count = data.get("errors")
    times = f", {count} times so far" if isinstance(count, int) and count > 1 else ""
    return f"{data.get('subscriber')} {data.get('action')} {data.get('method')}{times}{why}"


def _metrics_text(metrics: object) -> str:
    if not isinstance(metrics, Mapping):
        return ""
    text = [
        f"{name} {formatting.number(value)}"
        for name, value in metrics.items()
        if isinstance(value, (int, float)) and not _OMITTED_METRICS.search(str(name))
    ]
    return ", ".join(text[:4])


def _process_text(data: Mapping[str, Any]) -> str:
    process = data.get("process")
    if not isinstance(process, Mapping):
        return ""
    text = f"pid {process.get('pid')} on {process.get('host')}"
    world = data.get("world_size")
    return f"{text}, {world} ranks" if isinstance(world, int) and world > 1 else text


def _end_text(data: Mapping[str, Any]) -> str:
    error = data.get("error")
    if isinstance(error, Mapping):
        return f"{error.get('type')}: {error.get('message')}"
    return {
        "exit": "the process ended",
        "restarted": "another training started in the same process",
    }.get(str(data.get("how")), "")


def _gap_text(data: Mapping[str, Any]) -> str:
    first, end, why = data.get("first"), data.get("end"), data.get("why")
    if not isinstance(first, int) or not isinstance(end, int):
        return ""
    cause = {
        "cap": "the spool was full",
        "disk": "the disk was full",
        "invalid": f"the broker cannot read it ({data.get('error')}); kept in {data.get('kept')}",
    }.get(str(why), why)
    return f"{plural(end - first, 'event')} dropped: {cause}"


def _exit_text(data: Mapping[str, Any]) -> str:
    signal = data.get("signal")
    return f"ended by {signal}" if signal else f"exit code {data.get('exit_code')}"


def _lost_text(data: Mapping[str, Any]) -> str:
    return f"{data.get('producer')} ended while {data.get('phase')} without reporting why"


def _alert_text(data: Mapping[str, Any]) -> str:
    if "state" in data:
        opened, closed = data.get("opened_at"), data.get("closed_at")
        took = ""
        if formatting.is_number(opened) and formatting.is_number(closed):
            took = f", after {formatting.duration(max(0.0, closed - opened))}"
        return f"{data.get('rule')}: {data.get('summary')}{took}"
    would = f" (would {data.get('action')})" if data.get("dry_run") else ""
    return f"{data.get('rule')}: {data.get('why')}{would}"


def _response_text(kind: str, data: Mapping[str, Any]) -> str:
    """What a person did about alerts."""
    what = ""
    if kind == ALERT_MUTED:
        until = data.get("until")
        end = f" until {to_datetime(until):%H:%M} UTC" if formatting.is_number(until) else ""
        what = f"{data.get('rule') or 'every rule'}{end}, "
    note = f": {data.get('note')}" if data.get("note") else ""
    return f"{what}by {data.get('by') or formatting.UNKNOWN_ISSUER}{note}"


def _checkpoint_text(data: Mapping[str, Any]) -> str:
    """The folder's name and size, and the reason of its state."""
    size, why = data.get("bytes"), data.get("why")
    parts = [_folder_name(data)]
    if formatting.is_number(size) and size > 0:
        parts.append(formatting.size(size))
    text = ", ".join(parts)
    return f"{text}: {why}" if why else text


def _checkpoint_request_text(data: Mapping[str, Any]) -> str:
    who = data.get("issuer") or formatting.UNKNOWN_ISSUER
    return f"{data.get('op')} {_folder_name(data)}, by {who}"


def _folder_name(data: Mapping[str, Any]) -> str:
    return str(data.get("checkpoint") or "").rpartition("/")[2]


def _command_text(kind: str, data: Mapping[str, Any]) -> str:
    op, args = data.get("op"), data.get("args")
    label = ""
    if op:
        label = formatting.command_label(str(op), args if isinstance(args, Mapping) else {})
    if kind == commands.COMMAND:
        issuer = data.get("issued_by") or formatting.UNKNOWN_ISSUER
        parts = [f"{label}, by {issuer}", str(data.get("reason") or "")]
    else:
        parts = [label, commands.detail(data)]
    return ": ".join(part for part in parts if part)


def _indented_json(data: Mapping[str, Any]) -> str:
    text = json.dumps(strict(data)[0], indent=2, ensure_ascii=False)
    return text if len(text) <= _MAX_DATA else f"{text[:_MAX_DATA]}\n… truncated"


_TEXTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "save": _folder_name,
    CHECKPOINT_HELD: _checkpoint_text,
    CHECKPOINT_STATE: _checkpoint_text,
    CHECKPOINT_REQUEST: _checkpoint_request_text,
    "run_start": _process_text,
    "run_end": _end_text,
    "train_error": _end_text,
    "process_exit": _exit_text,
    "process_lost": _lost_text,
    "gap": _gap_text,
    ALERT: _alert_text,
    **{kind: partial(_response_text, kind) for kind in RESPONSE_KINDS},
    SUBSCRIBER_ERROR: _subscriber_text,
    commands.CONTROL_ON: lambda data: str(data.get("why") or ""),
}
