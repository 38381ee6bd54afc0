"""Figures in the summaries of alerts."""

from __future__ import annotations

import math

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def number(value: float) -> str:
    """``value`` with four digits, such as ``0.1235`` or ``NaN``."""
    if math.isnan(value):
        return "NaN"
    return f"{value:.4g}" if math.isfinite(value) else ("inf" if value > 0 else "-inf")


def percent(ratio: float) -> str:
    """``ratio`` as a percentage, such as ``12 %`` or ``0.5 %``."""
    return f"{100 * ratio:.0f} %" if ratio >= 0.1 else f"{100 * ratio:.2g} %"


def seconds(value: float) -> str:
    """A short time with its unit, such as ``250 ms``."""
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def duration(value: float) -> str:
    """A time of two units at most, such as ``1 h 20 min``."""
    if value < 60:
        return f"{value:.0f} s"
    minutes = round(value / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h" if hours % 24 else f"{hours // 24} d"


def size(value: float) -> str:
    """Bytes, such as ``1.5 GiB``."""
    power = 0
    while value >= 1024 and power < len(_UNITS) - 1:
        value, power = value / 1024, power + 1
    return f"{value:.3g} {_UNITS[power]}"
