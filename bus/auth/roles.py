"""What a caller may do on the bus: roles, runs, and the sentence to answer when it may not."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from lineside.bus.protocol import commands
from lineside.bus.protocol.event_kinds import ANSWER_PREFIX, EVALUATION_REVIEWED, REFUSED
from lineside.bus.protocol.events import AUDIT, Stream
from lineside.bus.protocol.patterns import matches

EMIT, READ, CONTROL, ADMIN = "emit", "read", "control", "admin"
ROLES = {
    EMIT: "write the events of runs of its own, as training does",
    READ: "read every event",
    CONTROL: "send commands to trainings, and read what becomes of them",
    ADMIN: "all of it, and write to runs of others",
}
"""Each role, and what it is for."""
_BROKER_RUN = "_bus"


@dataclass(frozen=True)
class Principal:
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
    def is_emit_only(self) -> bool:
        """Whether he may read no more than the commands for his own runs."""
        return self.roles == {EMIT}

    @property
    def role_names(self) -> str:
        """The roles, for people."""
        return ", ".join(role for role in ROLES if role in self.roles)

    def covers_run(self, run: str) -> bool:
        """Whether ``run`` is among his."""
        return not self.runs or any(matches(run, pattern) for pattern in self.runs)

    def write_denial(self, stream: Stream, owner: str | None) -> str:
        """On ``stream``, of a run that belongs to the key ``owner`` (None: to nobody yet)."""
        if stream.run == _BROKER_RUN:
            return f"{stream} is the broker's own"
        if stream.run == AUDIT:
            if stream.producer == "dashboard" and self.is_admin and not self.runs:
                return ""
            return f"{stream} is the audit's, which nobody writes from outside"
        if not self.covers_run(stream.run):
            return self._outside_runs(stream.run)
        if self.is_admin:
            return ""
        if stream.producer == commands.CONTROL_PRODUCER and CONTROL in self.roles:
            return ""
        if EMIT not in self.roles:
            return f"writing to {stream} takes the role {EMIT}: {self._has_roles()}"
        return self.ownership_denial(stream.run, owner)

    def publish_denial(self, stream: Stream, kinds: Collection[str], owner: str | None) -> str:
        """Events of ``kinds`` on a ``stream`` he may write to, if that is ``is_shared_stream``."""
        if stream.run == AUDIT:
            other = [kind for kind in kinds if kind != REFUSED]
            return f"{stream} takes only {REFUSED}, not {other[0]}" if other else ""
        if self.is_admin:
            return ""
        for kind in kinds:
            if kind in (commands.COMMAND, EVALUATION_REVIEWED):
                if CONTROL not in self.roles:
                    return (
                        f"a command to {stream.run} takes the role {CONTROL}: {self._has_roles()}"
                    )
            elif not kind.startswith(ANSWER_PREFIX):
                return f"{stream} takes commands and answers, not {kind}"
            elif EMIT not in self.roles:
                return f"an answer of {stream.run} takes the role {EMIT}: {self._has_roles()}"
            elif denial := self.ownership_denial(stream.run, owner):
                return denial
        return ""

    def read_denial(self, pattern: str) -> str:
        """Streams of ``pattern``; an empty one is every stream."""
        run, _, rest = pattern.partition("/")
        what = pattern or "everything"
        if self.runs and (run in ("", "*") or not self.covers_run(run)):
            return self._outside_runs(what)
        if self.roles & {READ, ADMIN}:
            return ""
        may_follow = CONTROL in self.roles or (EMIT in self.roles and run != "*")
        if may_follow and rest.partition("/")[0] == commands.CONTROL_PRODUCER:
            return ""
        return f"reading {what} takes the role {READ}: {self._has_roles()}"

    def ownership_denial(self, run: str, owner: str | None) -> str:
        """Whether ``run`` belongs to somebody else than him."""
        if owner is None or owner == self.name or self.is_admin:
            return ""
        owner_text = f"key {owner!r}" if owner else "the broker's own machine"
        return f"run {run} belongs to {owner_text}, and this is key {self.name!r}"

    def _outside_runs(self, what: str) -> str:
        return f"key {self.name!r} is for runs {', '.join(self.runs)}, not for {what}"

    def _has_roles(self) -> str:
        return f"key {self.name!r} has {self.role_names or 'none'}"


LOCAL = Principal("", frozenset({ADMIN}))
"""Whoever may open the socket's file on the broker's own machine."""


def is_shared_stream(stream: Stream) -> bool:
    """Whether who writes to ``stream`` depends on what is said there."""
    return stream.producer == commands.CONTROL_PRODUCER or stream.run == AUDIT
