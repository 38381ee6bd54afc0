"""What a caller may do on the bus: roles, runs, and the sentence to answer when it may not."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from lineside.bus.protocol import commands
from lineside.bus.protocol.events import AUDIT, REFUSED, Stream
from lineside.bus.protocol.patterns import fits

EMIT, READ, CONTROL, ADMIN = "emit", "read", "control", "admin"
ROLES = {
    EMIT: "write the events of runs of its own, as training does",
    READ: "read every event",
    CONTROL: "send commands to trainings, and read what becomes of them",
    ADMIN: "all of it, and write to runs of others",
}
"""Each role, and what it is for."""
_ANSWERS = "control_"
_BROKERS = "_bus"


@dataclass(frozen=True)
class Rights:
    """Who somebody is and what he may do: in ``runs`` (patterns with ``*``; none is every run) what
    ``roles`` say. Without a ``name`` he is a user of the broker's own machine.

    Each question is answered by a sentence that says why not; empty if he may.
    """

    name: str
    roles: frozenset[str]
    runs: tuple[str, ...] = ()

    @property
    def is_local(self) -> bool:
        return not self.name

    @property
    def is_admin(self) -> bool:
        return ADMIN in self.roles

    @property
    def only_emits(self) -> bool:
        """Whether he may read no more than the commands for his own runs."""
        return self.roles == {EMIT}

    @property
    def said(self) -> str:
        """The roles, for people."""
        return ", ".join(role for role in ROLES if role in self.roles)

    def covers(self, run: str) -> bool:
        """Whether ``run`` is among his."""
        return not self.runs or any(fits(run, pattern) for pattern in self.runs)

    def may_write(self, stream: Stream, owner: str | None) -> str:
        """On ``stream``, of a run that belongs to the key ``owner`` (None: to nobody yet)."""
        if stream.run == _BROKERS:
            return f"{stream} is the broker's own"
        if stream.run == AUDIT:
            if stream.producer == "dashboard" and self.is_admin and not self.runs:
                return ""
            return f"{stream} is the audit's, which nobody writes from outside"
        if not self.covers(stream.run):
            return self._elsewhere(stream.run)
        if self.is_admin:
            return ""
        if stream.producer == commands.PRODUCER and CONTROL in self.roles:
            return ""
        if EMIT not in self.roles:
            return f"writing to {stream} takes the role {EMIT}: {self._has()}"
        return self.is_foreign(stream.run, owner)

    def may_say(self, stream: Stream, kinds: Collection[str], owner: str | None) -> str:
        """Events of ``kinds`` on a ``stream`` he may write to, if that is ``is_minded``."""
        if stream.run == AUDIT:
            other = [kind for kind in kinds if kind != REFUSED]
            return f"{stream} takes only {REFUSED}, not {other[0]}" if other else ""
        if self.is_admin:
            return ""
        for kind in kinds:
            if kind == commands.COMMAND:
                if CONTROL not in self.roles:
                    return f"a command to {stream.run} takes the role {CONTROL}: {self._has()}"
            elif not kind.startswith(_ANSWERS):
                return f"{stream} takes commands and answers, not {kind}"
            elif EMIT not in self.roles:
                return f"an answer of {stream.run} takes the role {EMIT}: {self._has()}"
            elif foreign := self.is_foreign(stream.run, owner):
                return foreign
        return ""

    def may_read(self, pattern: str) -> str:
        """Streams of ``pattern``; an empty one is every stream."""
        run, _, rest = pattern.partition("/")
        what = pattern or "everything"
        if self.runs and (run in ("", "*") or not self.covers(run)):
            return self._elsewhere(what)
        if self.roles & {READ, ADMIN}:
            return ""
        follows = CONTROL in self.roles or (EMIT in self.roles and run != "*")
        if follows and rest.partition("/")[0] == commands.PRODUCER:
            return ""
        return f"reading {what} takes the role {READ}: {self._has()}"

    def is_foreign(self, run: str, owner: str | None) -> str:
        """Whether ``run`` belongs to somebody else than him."""
        if owner is None or owner == self.name or self.is_admin:
            return ""
        whose = f"key {owner!r}" if owner else "the broker's own machine"
        return f"run {run} belongs to {whose}, and this is key {self.name!r}"

    def _elsewhere(self, what: str) -> str:
        return f"key {self.name!r} is for runs {', '.join(self.runs)}, not for {what}"

    def _has(self) -> str:
        return f"key {self.name!r} has {self.said or 'none'}"


LOCAL = Rights("", frozenset({ADMIN}))
"""Whoever may open the socket's file on the broker's own machine."""


def is_minded(stream: Stream) -> bool:
    """Whether who writes to ``stream`` depends on what is said there."""
    return stream.producer == commands.PRODUCER or stream.run == AUDIT
