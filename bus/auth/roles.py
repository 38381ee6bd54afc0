"""Roles of keys, and what a client with some roles may do on the bus."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from lineside.bus.protocol import commands
from lineside.bus.protocol.alerts import RESPONSE_KINDS, WATCHDOG
from lineside.bus.protocol.checkpoints import ARCHIVER
from lineside.bus.protocol.event_kinds import (
    ANSWER_PREFIX,
    CHECKPOINT_REQUEST,
    EVALUATION_REVIEWED,
    METRICS,
    REFUSED,
    SUBSCRIBER_ERROR,
)
from lineside.bus.protocol.events import AUDIT, INTERNAL_RUN, SAMPLER_PREFIX, Stream
from lineside.bus.protocol.patterns import matches

EMIT, READ, CONTROL, ADMIN, ANNOTATE = "emit", "read", "control", "admin", "annotate"
ROLES = {
    EMIT: "publish the events of its own runs, as training does",
    READ: "read every event",
    CONTROL: "send commands to trainings and read the answers, acknowledge and mute alerts, "
    "pin and delete checkpoints",
    ANNOTATE: "publish metrics to any run, as an evaluator does",
    ADMIN: "do all of this, and publish to the runs of other keys",
}
"""Each role, and what a key with it may do."""
_COMMAND_KINDS = (commands.COMMAND, EVALUATION_REVIEWED)
_CLIENT_KINDS = (*_COMMAND_KINDS, CHECKPOINT_REQUEST, *RESPONSE_KINDS)
_BROKER_RUN = "_bus"
_RESERVED_PRODUCERS = frozenset(
    {
        commands.CONTROL_PRODUCER,
        ARCHIVER,
        WATCHDOG,
        "shipper",
        "launcher",
        "stopper",
        "recorder",
        "broker",
        "dashboard",
    }
)


def is_reserved_producer(name: str) -> bool:
    """Whether ``name`` is the producer of a rank or of one of Lineside's own processes."""
    return name.startswith(("rank", SAMPLER_PREFIX)) or name in _RESERVED_PRODUCERS


@dataclass(frozen=True)
class Principal:
    """A client, and what it may do: ``roles`` in ``runs`` (patterns with ``*``; none is every run).

    Without a ``name`` it is a user of the broker's own machine. A method ``..._denial`` returns the
    reason why something is not allowed, or an empty string if it is.
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
        """Whether it may read nothing but the commands for its own runs."""
        return EMIT in self.roles and not self.roles & {READ, CONTROL, ADMIN}

    @property
    def role_names(self) -> str:
        """The roles, separated by commas."""
        return ", ".join(role for role in ROLES if role in self.roles)

    def covers_run(self, run: str) -> bool:
        return not self.runs or any(matches(run, pattern) for pattern in self.runs)

    def is_annotation(self, stream: Stream, owner: str | None) -> bool:
        """Whether it writes to ``stream`` by the role annotate, which takes metrics and errors.

        ``owner`` is the key that owns the run, None if none does. In a run of its own a key with
        the role emit writes by that role.
        """
        return (
            ANNOTATE in self.roles
            and not self.is_admin
            and stream.producer == self.name
            and not is_reserved_producer(stream.producer)
            and not (EMIT in self.roles and owner == self.name)
        )

    def write_denial(self, stream: Stream, owner: str | None) -> str:
        """Open ``stream``, whose run belongs to the key ``owner``."""
        if stream.run == _BROKER_RUN:
            return f"{stream} is the broker's own"
        if stream.run == AUDIT:
            if stream.producer == "dashboard" and self.is_admin and not self.runs:
                return ""
            return f"{stream} belongs to the audit, which takes no events from clients"
        if not self.covers_run(stream.run):
            return self._outside_runs(stream.run)
        may_respond = stream.producer == commands.CONTROL_PRODUCER and CONTROL in self.roles
        if self.is_admin or may_respond:
            return ""
        if stream.run == INTERNAL_RUN:
            return f"{stream} is Lineside's own: writing to it takes the role {ADMIN}"
        if self.is_annotation(stream, owner):
            return ""
        if EMIT in self.roles:
            return self.ownership_denial(stream.run, owner)
        if ANNOTATE in self.roles:
            return (
                f"key {self.name!r} has {self.role_names} and may write to "
                f"{stream.run}/{self.name}/... only, not to {stream}"
            )
        return f"writing to {stream} takes the role {EMIT}: {self._has_roles()}"

    def annotation_denial(self, kinds: Collection[str]) -> str:
        """Publish events of ``kinds`` on a stream that ``is_annotation``."""
        other = [kind for kind in kinds if kind not in (METRICS, SUBSCRIBER_ERROR)]
        allowed = f"{METRICS} and {SUBSCRIBER_ERROR}"
        return f"the role {ANNOTATE} publishes {allowed}, not {other[0]}" if other else ""

    def publish_denial(self, stream: Stream, kinds: Collection[str], owner: str | None) -> str:
        """Publish events of ``kinds`` on a ``stream`` that ``is_shared_stream``."""
        if stream.run == AUDIT:
            other = [kind for kind in kinds if kind != REFUSED]
            return f"{stream} takes only {REFUSED}, not {other[0]}" if other else ""
        if self.is_admin:
            return ""
        for kind in kinds:
            if kind in _CLIENT_KINDS:
                if CONTROL not in self.roles:
                    what = "a command" if kind in _COMMAND_KINDS else kind
                    return f"{what} to {stream.run} takes the role {CONTROL}: {self._has_roles()}"
            elif not kind.startswith(ANSWER_PREFIX):
                return f"{stream} takes commands and answers, not {kind}"
            elif EMIT not in self.roles:
                return f"an answer of {stream.run} takes the role {EMIT}: {self._has_roles()}"
            elif denial := self.ownership_denial(stream.run, owner):
                return denial
        return ""

    def read_denial(self, pattern: str) -> str:
        """Subscribe to the streams of ``pattern``; an empty one is every stream."""
        run, _, rest = pattern.partition("/")
        target = pattern or "everything"
        if self.runs and (run in ("", "*") or not self.covers_run(run)):
            return self._outside_runs(target)
        if self.roles & {READ, ADMIN}:
            return ""
        may_follow = CONTROL in self.roles or (EMIT in self.roles and run != "*")
        if may_follow and rest.partition("/")[0] == commands.CONTROL_PRODUCER:
            return ""
        return f"reading {target} takes the role {READ}: {self._has_roles()}"

    def ownership_denial(self, run: str, owner: str | None) -> str:
        """Write to ``run``, which belongs to the key ``owner``; None is no key yet."""
        if owner is None or owner == self.name or self.is_admin:
            return ""
        owner_text = f"key {owner!r}" if owner else "the broker's own machine"
        return f"run {run} belongs to {owner_text}, and this is key {self.name!r}"

    def _outside_runs(self, target: str) -> str:
        return f"key {self.name!r} is for runs {', '.join(self.runs)}, not for {target}"

    def _has_roles(self) -> str:
        return f"key {self.name!r} has {self.role_names or 'none'}"


LOCAL = Principal("", frozenset({ADMIN}))
"""A user of the broker's own machine, who may open the socket's file."""
