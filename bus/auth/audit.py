"""Who was refused what: said at once the first time, then counted, so that a flood stays small."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, TypeAlias

SAID_EVERY = 60.0
"""Seconds between two words on the same refusal."""
TARGETS_MAX = 8
"""Targets of one caller and action told apart; all others are one more."""
STRANGERS_MAX = 32
"""Callers without a name told apart, by action; all others are one more. Those with a name are as
many as there are keys, and no stranger takes their place."""
SAID_MAX = 20
"""Words in ``SAID_EVERY`` on one action of strangers, and as many of the others. What is beyond is
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


class Refusals:
    """What is to be said of refusals, and when. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._named: _Callers = {}
        self._strangers: _Callers = {}
        self._said: Counter[tuple[bool, str]] = Counter()
        self._since = float("-inf")

    def __bool__(self) -> bool:
        """Whether anything is still to be said, at once or later."""
        return any(kind.count for kind in self._kinds())

    def note(self, refusal: Refusal) -> None:
        """Count a refusal."""
        caller, target = (refusal.who[:_TEXT_MAX], refusal.action), refusal.target[:_TEXT_MAX]
        callers = self._callers(refusal)
        if callers is self._strangers and caller not in callers and len(callers) >= STRANGERS_MAX:
            caller, target = (OTHERS, refusal.action), OTHERS
        targets = callers.setdefault(caller, {})
        if target not in targets and len(targets) >= TARGETS_MAX:
            target = OTHERS
        kind = targets.setdefault(target, _Kind(caller[0], target, refusal))
        kind.count += 1
        kind.newest = refusal

    def due(self, now: float) -> list[dict[str, Any]]:
        """The data of the ``refused`` events to be written now, all there are if that is infinity;
        ``count`` is how many refusals each stands for."""
        if now >= self._since + SAID_EVERY:
            self._since = now
            self._said.clear()
        said = []
        # What was never said comes first, and what was said longest ago.
        for kind in sorted(self._kinds(), key=lambda kind: kind.said_at):
            if now < kind.said_at + SAID_EVERY:
                break
            newest = kind.newest
            if not kind.count:
                self._forget(kind)
                continue
            share = (bool(newest.role), newest.action)
            if self._said[share] >= SAID_MAX and now < math.inf:
                continue
            self._said[share] += 1
            said.append(
                {
                    "who": kind.who,
                    "role": newest.role,
                    "action": newest.action,
                    "target": kind.target,
                    "why": newest.why[:_TEXT_MAX],
                    "count": kind.count,
                }
            )
            kind.count, kind.said_at = 0, now
        return said

    def _callers(self, refusal: Refusal) -> _Callers:
        return self._named if refusal.role else self._strangers

    def _kinds(self) -> list[_Kind]:
        return [
            kind
            for callers in (self._named, self._strangers)
            for targets in callers.values()
            for kind in targets.values()
        ]

    def _forget(self, kind: _Kind) -> None:
        callers, caller = self._callers(kind.newest), (kind.who, kind.newest.action)
        del callers[caller][kind.target]
        if not callers[caller]:
            del callers[caller]


@dataclass
class _Kind:
    who: str
    target: str
    newest: Refusal
    count: int = 0
    said_at: float = float("-inf")


_Callers: TypeAlias = "dict[tuple[str, str], dict[str, _Kind]]"
