"""Recorded events as stops of a timeline: in words, with what matters of their data."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lineside.bus.protocol import commands
from lineside.bus.protocol.event_kinds import (
    COUNTED,
    EVENT_KINDS,
    HIDDEN,
    SUBSCRIBER_ERROR,
    event_kind,
)
from lineside.dashboard import formatting
from lineside.dashboard.http.strict_json import strict
from lineside.store.history.records import EventRow

UNLISTED_KINDS = frozenset(kind.name for kind in EVENT_KINDS if kind.timeline == COUNTED)
"""Kinds that are counted, not listed."""
HIDDEN_BY_DEFAULT = frozenset(kind.name for kind in EVENT_KINDS if kind.timeline == HIDDEN)
_OMITTED_METRICS = re.compile(r"^epoch$|runtime|per_second|flos")
_MAX_DATA = 20_000  # characters of one event's data shown


@dataclass(frozen=True)
class TimelineEntry:
    """One event for a person. ``data`` is its data as indented JSON, where that says more."""

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
class Kind:
    """A kind of event that can be shown or hidden."""

    name: str
    label: str
    count: int
    shown: bool


def kinds(counts: Mapping[str, int], hidden: frozenset[str]) -> list[Kind]:
    """The listed kinds of a run with their counts, in order."""
    return [
        Kind(name, formatting.kind(name), count, name not in hidden)
        for name, count in sorted(
            counts.items(), key=lambda item: formatting.kind_sort_key(item[0])
        )
        if name not in UNLISTED_KINDS
    ]


def entry(row: EventRow, began: datetime) -> TimelineEntry:
    """An event of a run that began at ``began``."""
    data = row.data or {}
    where = [f"step {row.step:,}"] if row.step else []
    if row.producer not in ("rank0", commands.CONTROL_PRODUCER):
        where.append(row.producer)
    return TimelineEntry(
        n=row.n,
        kind=row.kind,
        label=formatting.kind(row.kind),
        where=" · ".join(where),
        text=row.problem or _text(row.kind, data),
        tone="caution" if row.problem else _tone(row.kind, data),
        time=row.time,
        offset=formatting.offset((row.time - began).total_seconds()),
        data="" if row.kind == "run_start" or not data else _indented_json(data),
    )


def _text(kind: str, data: Mapping[str, Any]) -> str:
    if summary := event_kind(kind).summary:
        return _metrics_text(data.get(summary))
    if kind == "save":
        return str(data.get("checkpoint") or "").rpartition("/")[2]
    if kind == "run_start":
        return _process_text(data)
    if kind in ("train_error", "run_end"):
        return _end_text(data)
    if kind == "process_exit":
        signal = data.get("signal")
        return f"ended by {signal}" if signal else f"exit code {data.get('exit_code')}"
    if kind == "process_lost":
        return f"{data.get('producer')} went while {data.get('phase')}, without a word"
    if kind == "gap":
        return _gap_text(data)
    if kind in commands.STATE_OF_KIND or kind == commands.CONTROL_ON:
        return _command_text(kind, data)
    if kind == "alert":
        would = f" (would {data.get('action')})" if data.get("dry_run") else ""
        return f"{data.get('rule')}: {data.get('why')}{would}"
    if kind == SUBSCRIBER_ERROR:
        return _subscriber_text(data)
    return ""


def _tone(kind: str, data: Mapping[str, Any]) -> str:
    if kind == "train_end":
        return "clear"
    if kind in (
        "alert",
        "gap",
        "process_lost",
        SUBSCRIBER_ERROR,
        commands.REJECTED,
        commands.EXPIRED,
    ):
        return "caution"
    if kind == "train_error" or (kind == "run_end" and data.get("how") == "exception"):
        return "danger"
    if kind == "process_exit" and (data.get("signal") or data.get("exit_code")):
        return "danger"
    return ""


def _subscriber_text(data: Mapping[str, Any]) -> str:
    error = data.get("error")
    why = f": {error.get('type')}: {error.get('message')}" if isinstance(error, Mapping) else ""
    return f"{data.get('subscriber')} {data.get('action')} {data.get('method')}{why}"


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
    return {"exit": "the process ended", "restarted": "another training began in it"}.get(
        str(data.get("how")), ""
    )


def _gap_text(data: Mapping[str, Any]) -> str:
    first, end, why = data.get("first"), data.get("end"), data.get("why")
    if not isinstance(first, int) or not isinstance(end, int):
        return ""
    cause = {"cap": "the spool was at its cap", "disk": "the disk was full"}.get(str(why), why)
    return f"{formatting.plural(end - first, 'event')} dropped: {cause}"


def _command_text(kind: str, data: Mapping[str, Any]) -> str:
    if kind == commands.CONTROL_ON:
        return str(data.get("why") or "")
    op, args = data.get("op"), data.get("args")
    what = formatting.command(str(op), args if isinstance(args, Mapping) else {}) if op else ""
    if kind == commands.COMMAND:
        parts = [f"{what}, by {data.get('issued_by') or 'somebody'}", str(data.get("reason") or "")]
    else:
        parts = [what, commands.detail(data)]
    return ": ".join(part for part in parts if part)


def _indented_json(data: Mapping[str, Any]) -> str:
    text = json.dumps(strict(data)[0], indent=2, ensure_ascii=False)
    return text if len(text) <= _MAX_DATA else f"{text[:_MAX_DATA]}\n… cut here"
