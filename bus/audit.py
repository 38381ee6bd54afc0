"""Who was refused what: said at once the first time, then counted, so that a flood stays small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SAID_EVERY = 60.0
"""Seconds between two words on the same refusal."""
KINDS_MAX = 256
"""Different refusals told apart; all others together are one more of their action."""
OTHERS = "(others)"
"""What ``who`` and ``target`` are of those."""
_TEXT_MAX = 300


@dataclass(frozen=True)
class Refusal:
    """``who`` (a key's name, else an address, else empty) with ``role`` was refused an ``action``
    (connect, publish, subscribe, command, http) on ``target``, and ``why``."""

    who: str
    role: str
    action: str
    target: str
    why: str


class Refusals:
    """What is to be said of refusals, and when. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str, str], _Kind] = {}

    def __bool__(self) -> bool:
        """Whether anything is still to be said, at once or later."""
        return any(kind.count for kind in self._kinds.values())

    def note(self, refusal: Refusal) -> None:
        """Count a refusal."""
        key = (refusal.who[:_TEXT_MAX], refusal.action, refusal.target[:_TEXT_MAX])
        if key not in self._kinds and len(self._kinds) >= KINDS_MAX:
            key = (OTHERS, refusal.action, OTHERS)
        kind = self._kinds.setdefault(key, _Kind(refusal))
        kind.count += 1
        kind.newest = refusal

    def due(self, now: float) -> list[dict[str, Any]]:
        """The data of the ``refused`` events to be written now; ``count`` is how many refusals each
        stands for."""
        said = []
        for key, kind in list(self._kinds.items()):
            if now < kind.said_at + SAID_EVERY:
                continue
            if not kind.count:
                del self._kinds[key]
                continue
            who, action, target = key
            newest = kind.newest
            role, why = newest.role, newest.why[:_TEXT_MAX]
            data = {"who": who, "role": role, "action": action, "target": target, "why": why}
            said.append({**data, "count": kind.count})
            kind.count, kind.said_at = 0, now
        return said


class _Kind:
    def __init__(self, first: Refusal) -> None:
        self.newest = first
        self.count = 0
        self.said_at = float("-inf")
