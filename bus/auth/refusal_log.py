"""Who was refused what: said at once the first time, then counted, so that a flood stays small."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, TypeAlias

REPORT_INTERVAL_SECONDS = 60.0
"""Seconds between two words on the same refusal."""
TARGETS_MAX_PER_CALLER = 8
"""Targets of one caller and action told apart; all others are one more."""
ANONYMOUS_MAX = 32
"""Callers without a name told apart, by action; all others are one more. Those with a name are as
many as there are keys, and no stranger takes their place."""
REPORTS_MAX = 20
"""Words in ``REPORT_INTERVAL_SECONDS`` on one action of strangers, and as many of the others. What
is beyond is
counted on, and said later."""
OTHERS = "(others)"
"""What ``who`` or ``target`` is of all others."""
_TEXT_MAX = 300


@dataclass(frozen=True)
class Refusal:
    """``who`` (a key's name, else an address, else empty) with ``role``, which is empty for a
    stranger, was refused an ``action`` (connect, publish, subscribe, command, http) on ``target``,
    and ``why``."""

    who: str
    role: str
    action: str
    target: str
    why: str


class RefusalLog:
    """What is to be said of refusals, and when. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._authenticated: _Callers = {}
        self._anonymous: _Callers = {}
        self._reports: Counter[tuple[bool, str]] = Counter()
        self._interval_start = float("-inf")

    def __bool__(self) -> bool:
        """Whether anything is still to be said, at once or later."""
        return any(entry.count for entry in self._counts())

    def add(self, refusal: Refusal) -> None:
        """Count a refusal."""
        caller, target = (refusal.who[:_TEXT_MAX], refusal.action), refusal.target[:_TEXT_MAX]
        callers = self._callers(refusal)
        if callers is self._anonymous and caller not in callers and len(callers) >= ANONYMOUS_MAX:
            caller, target = (OTHERS, refusal.action), OTHERS
        targets = callers.setdefault(caller, {})
        if target not in targets and len(targets) >= TARGETS_MAX_PER_CALLER:
            target = OTHERS
        entry = targets.setdefault(target, _Count(caller[0], target, refusal))
        entry.count += 1
        entry.latest = refusal

    def take_due(self, now: float) -> list[dict[str, Any]]:
        """The data of the ``refused`` events to be written now, all there are if that is infinity;
        ``count`` is how many refusals each stands for."""
        if now >= self._interval_start + REPORT_INTERVAL_SECONDS:
            self._interval_start = now
            self._reports.clear()
        reports = []
        # What was never said comes first, and what was said longest ago.
        for entry in sorted(self._counts(), key=lambda entry: entry.reported_at):
            if now < entry.reported_at + REPORT_INTERVAL_SECONDS:
                break
            latest = entry.latest
            if not entry.count:
                self._remove(entry)
                continue
            quota = (bool(latest.role), latest.action)
            if self._reports[quota] >= REPORTS_MAX and now < math.inf:
                continue
            self._reports[quota] += 1
            reports.append(
                {
                    "who": entry.who,
                    "role": latest.role,
                    "action": latest.action,
                    "target": entry.target,
                    "why": latest.why[:_TEXT_MAX],
                    "count": entry.count,
                }
            )
            entry.count, entry.reported_at = 0, now
        return reports

    def _callers(self, refusal: Refusal) -> _Callers:
        return self._authenticated if refusal.role else self._anonymous

    def _counts(self) -> list[_Count]:
        return [
            entry
            for callers in (self._authenticated, self._anonymous)
            for targets in callers.values()
            for entry in targets.values()
        ]

    def _remove(self, entry: _Count) -> None:
        callers, caller = self._callers(entry.latest), (entry.who, entry.latest.action)
        del callers[caller][entry.target]
        if not callers[caller]:
            del callers[caller]


@dataclass
class _Count:
    who: str
    target: str
    latest: Refusal
    count: int = 0
    reported_at: float = float("-inf")


_Callers: TypeAlias = "dict[tuple[str, str], dict[str, _Count]]"
