"""Counts the open alerts of the watchdog by rule and severity, from their events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lineside.bus.protocol.alerts import CLOSED, OPEN, SEVERITIES
from lineside.store.database.values import sanitize_text
from lineside.subscribers.exporter.record import TEXT_LENGTH

MAX_OPEN = 10_000
"""Open alerts that are counted; further ones are not."""
MAX_RULES = 200
"""Rules that have series; alerts of further ones count as ``OTHER``."""
OTHER = "other"


class FiringAlerts:
    """The open alerts, by run and id. A rule that was seen keeps its series, at 0.

    ``saved`` is what ``to_dict`` returned.
    """

    def __init__(self, saved: Mapping[str, Any] | None = None) -> None:
        saved = saved or {}
        self._open: dict[tuple[str, str], tuple[str, str]] = {
            (run, alert): (rule, severity) for run, alert, rule, severity in saved.get("open", ())
        }
        self._seen: dict[tuple[str, str], None] = dict.fromkeys(map(tuple, saved.get("seen", ())))

    def read(self, run: str, data: Mapping[str, Any]) -> bool:
        """Take in the data of an ``alert`` event; whether it opened an alert."""
        alert, state, severity = data.get("id"), data.get("state"), data.get("severity")
        if not isinstance(alert, str) or severity not in SEVERITIES:
            return False
        key = (run, alert)
        if state == CLOSED:
            self._open.pop(key, None)
            return False
        if state != OPEN or (key not in self._open and len(self._open) >= MAX_OPEN):
            return False
        has_opened = key not in self._open
        self._open[key] = labels = (self._rule(data.get("rule")), str(severity))
        self._seen[labels] = None
        return has_opened

    def counts(self) -> dict[tuple[str, str], int]:
        """The number of open alerts by rule and severity."""
        found = dict.fromkeys(self._seen, 0)
        for labels in self._open.values():
            found[labels] += 1
        return found

    def to_dict(self) -> dict[str, Any]:
        """The open alerts and known series as JSON values."""
        return {
            "open": [[*key, *labels] for key, labels in self._open.items()],
            "seen": list(self._seen),
        }

    def _rule(self, rule: object) -> str:
        name = sanitize_text(rule, TEXT_LENGTH) if isinstance(rule, str) and rule else OTHER
        known = {seen for seen, _ in self._seen}
        return name if name in known or len(known) < MAX_RULES else OTHER
