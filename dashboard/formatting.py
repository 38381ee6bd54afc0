"""Numbers, times, states and commands as text. static/format.js formats them alike."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeGuard

from lineside.bus.wording import plural

DAY, HOUR, MINUTE = 86400, 3600, 60
UNKNOWN_ISSUER = "somebody"
NO_VALUE = "\N{EN DASH}"
_SIGNIFICANT = 4
_UNIT = re.compile(r"_(bytes|hertz)(_total)?(_per_second)?$")
_PREFIXES = ("", "k", "M", "G", "T", "P")

STATUS_MEANING = {
    "running": "training is in progress",
    "stalled": "the process is alive, but training makes no progress",
    "finished": "training reached its end",
    "stopped": "a command stopped training",
    "interrupted": "a person or a program interrupted training",
    "failed": "training ended with an error",
    "killed": "a signal ended the process",
    "lost": "the process ended without reporting why",
    "disconnected": "it was running, but no message came for 15 seconds",
}
"""What each status of a run means."""


def command_label(op: str | None, args: Mapping[str, Any]) -> str:
    """A command as text: ``Learning rate 5e-4``, ``Stop without saving``."""
    if op == "stop":
        return "Stop" if args.get("save", True) else "Stop without saving"
    if op == "pause" and is_number(args.get("seconds")):
        return f"Pause for {duration(args['seconds'])}"
    if op == "set_lr" and is_number(args.get("lr")):
        return f"Learning rate {number(args['lr'])}"
    names = {"set_lr": "Learning rate", None: "Unknown command"}
    return names.get(op) or capitalize_first(str(op).replace("_", " "))


def is_number(value: object) -> TypeGuard[float]:
    """Whether ``value`` is a finite number and not a bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def capitalize_first(text: str) -> str:
    """``text`` with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def number(value: float | None) -> str:
    """Fractions with four significant digits, whole numbers with commas: ``12,345``."""
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


def quantity(value: float | None, name: str) -> str:
    """A metric's value: bytes and hertz as ``1.5 GB/s``, anything else as a number."""
    found = _UNIT.search(name)
    if found is None or value is None or not math.isfinite(value):
        return number(value)
    power = 0
    while power < len(_PREFIXES) - 1 and abs(value) >= 1000:
        value /= 1000
        power += 1
    unit = "B" if found[1] == "bytes" else "Hz"
    return f"{number(value)} {_PREFIXES[power]}{unit}{'/s' if found[3] else ''}"


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
    return "yesterday" if days == 1 else f"{plural(days, 'day')} ago"


def size(count: float) -> str:
    """Bytes with a unit: ``12 kB``, ``1.4 GB`` (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def offset(seconds: float) -> str:
    """Time since the start of a run: ``+00:03:12``."""
    sign = "-" if seconds < 0 else "+"
    whole = abs(int(seconds))
    return f"{sign}{whole // HOUR:02d}:{whole % HOUR // MINUTE:02d}:{whole % MINUTE:02d}"
