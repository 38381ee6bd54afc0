"""Count refusals by caller and action, and report each count at most once a minute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

REPORT_INTERVAL_SECONDS = 60.0
"""Seconds between two reports on the same caller and action."""
ANONYMOUS_MAX = 20
"""Callers without a name, by action, that are counted apart; all others are counted together.

Named callers are as many as there are keys, so anonymous ones never take their place.
"""
OTHERS = "(others)"
"""The caller in the report on all other anonymous callers."""
_TEXT_MAX = 300


@dataclass(frozen=True)
class Refusal:
    """A refused request.

    ``who`` is a key's name, else an address, else empty; ``role`` is empty for an anonymous caller.
    ``action`` is connect, publish, subscribe, command, protocol (a malformed message) or http, and
    ``target`` what it was for.
    """

    who: str
    role: str
    action: str
    target: str
    why: str


@dataclass
class _Count:
    latest: Refusal
    count: int = 0
    reported_at: float = float("-inf")


class RefusalLog:
    """Decides what to report of refusals, and when. Times are monotonic seconds.

    The first refusal of a caller and action is reported at once, the following ones together.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[bool, str, str], _Count] = {}

    def __bool__(self) -> bool:
        """Whether a refusal is not reported yet."""
        return any(entry.count for entry in self._counts.values())

    def add(self, refusal: Refusal) -> None:
        """Count a refusal."""
        is_named, who = bool(refusal.role), refusal.who[:_TEXT_MAX]
        key = is_named, who, refusal.action
        if key not in self._counts and not is_named and self._is_full():
            key = is_named, OTHERS, refusal.action
        entry = self._counts.setdefault(key, _Count(refusal))
        entry.latest = refusal
        entry.count += 1

    def take_due(self, now: float) -> list[dict[str, Any]]:
        """The data of the ``refused`` events to publish now; every count if ``now`` is infinite."""
        reports = []
        for key, entry in list(self._counts.items()):
            if now < entry.reported_at + REPORT_INTERVAL_SECONDS:
                continue
            if not entry.count:
                del self._counts[key]
                continue
            _, who, action = key
            reports.append(
                {
                    "who": who,
                    "role": entry.latest.role,
                    "action": action,
                    "target": entry.latest.target[:_TEXT_MAX],
                    "why": entry.latest.why[:_TEXT_MAX],
                    "count": entry.count,
                }
            )
            entry.count, entry.reported_at = 0, now
        return reports

    def _is_full(self) -> bool:
        return sum(not is_named for is_named, _, _ in self._counts) >= ANONYMOUS_MAX
