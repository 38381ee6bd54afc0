"""How numbers, times and states are said to a person. static/format.js says them the same way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from lineside.bus.protocol.event_kinds import KINDS, event_kind

DAY, HOUR, MINUTE = 86400, 3600, 60
NO_VALUE = "\N{EN DASH}"
_SIGNIFICANT = 4
_KIND_ORDER = {name: place for place, name in enumerate(KINDS)}

STATUS_MEANING = {
    "running": "training goes on",
    "stalled": "the process lives, but training does not move",
    "finished": "training came to its end",
    "stopped": "training was stopped by a command",
    "interrupted": "training was interrupted by a person or a program",
    "failed": "training ended with an error",
    "killed": "the process was ended by a signal",
    "lost": "the process went without a word",
    "disconnected": "running when last heard of, but nothing has come for 15 seconds",
}
"""Status word to what it means."""


def kind(name: str) -> str:
    """An event's kind as a person says it."""
    return event_kind(name).label


def command(op: str | None, args: Mapping[str, Any]) -> str:
    """What a command asks for: ``Learning rate 5e-4``, ``Stop without saving``."""
    if op == "stop":
        return "Stop" if args.get("save", True) else "Stop without saving"
    if op == "pause" and is_number(args.get("seconds")):
        return f"Pause for {duration(args['seconds'])}"
    if op == "set_lr" and is_number(args.get("lr")):
        return f"Learning rate {number(args['lr'])}"
    names = {"set_lr": "Learning rate", None: "Unknown command"}
    return names.get(op) or sentence(str(op).replace("_", " "))


def is_number(value: object) -> bool:
    """Whether ``value`` is a finite number, and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def sentence(text: str) -> str:
    """``text`` with a capital at its beginning."""
    return text[:1].upper() + text[1:]


def kind_sort_key(name: str) -> tuple[int, str]:
    """Where a kind stands in a row of kinds."""
    return _KIND_ORDER.get(name, len(_KIND_ORDER)), name


def number(value: float | None) -> str:
    """At most four significant digits for fractions, whole numbers with thousands' commas."""
    if value is None:
        return NO_VALUE
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}\N{INFINITY}"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    size = abs(value)
    if size < 1e-3 or size >= 1e7:
        digits, exponent = f"{value:.{_SIGNIFICANT - 2}e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    places = max(0, _SIGNIFICANT - 1 - math.floor(math.log10(size)))
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def duration(seconds: float) -> str:
    """``45s``, ``3m 12s``, ``2h 05m``, ``3d 04h``."""
    whole = max(0, int(seconds))
    if whole < MINUTE:
        return f"{whole}s"
    if whole < HOUR:
        return f"{whole // MINUTE}m {whole % MINUTE:02d}s"
    if whole < DAY:
        return f"{whole // HOUR}h {whole % HOUR // MINUTE:02d}m"
    return f"{whole // DAY}d {whole % DAY // HOUR:02d}h"


def ago(then: datetime, now: datetime) -> str:
    """``just now``, ``12 min ago``, ``yesterday``."""
    seconds = max(0, int((now - then).total_seconds()))
    if seconds < 10:
        return "just now"
    if seconds < MINUTE:
        return f"{seconds} s ago"
    if seconds < HOUR:
        return f"{seconds // MINUTE} min ago"
    if seconds < DAY:
        return f"{seconds // HOUR} h ago"
    days = seconds // DAY
    return "yesterday" if days == 1 else f"{days} days ago"


def size(count: float) -> str:
    """Bytes with a unit: ``12 kB``, ``1.4 GB`` (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def plural(count: int, noun: str) -> str:
    """``1 event``, ``12,345 events``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def offset(seconds: float) -> str:
    """Time since the start as on a timetable: ``+00:03:12``."""
    sign = "-" if seconds < 0 else "+"
    whole = abs(int(seconds))
    return f"{sign}{whole // HOUR:02d}:{whole % HOUR // MINUTE:02d}:{whole % MINUTE:02d}"
