"""Commands to a running training, their arguments and their states."""

from __future__ import annotations

import getpass
import math
import platform
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lineside.bus.errors import CommandError
from lineside.bus.protocol.event_kinds import EVENT_KINDS

CONTROL_PRODUCER = "control"
"""The producer part of the streams of commands and answers."""
EXPIRES_SECONDS = 600.0
"""How long a command may wait for a training, unless it has another ``expires_at``."""
PAUSE_SECONDS = 86_400.0
"""The longest pause, unless the command has another ``seconds``."""
GRACE_SECONDS = 2.0
"""How long after the expiry of a command an answer may still arrive."""

COMMAND, CONTROL_ON = "command", "control_on"
DELIVERED, APPLIED = "control_delivered", "control_applied"
REJECTED, EXPIRED, SUPERSEDED = "control_rejected", "control_expired", "control_superseded"
STATE_OF_KIND: Mapping[str, str] = {
    kind.name: kind.command_state for kind in EVENT_KINDS if kind.command_state
}
"""The state of a command once an event of this kind is published."""
FINAL_KINDS = frozenset(kind.name for kind in EVENT_KINDS if kind.is_final)
"""Answers after which the state of a command no longer changes."""

MAX_RATE = 1_000
"""The highest learning rate that can be set; no optimizer takes a higher one to good effect."""
_ID_LENGTH = 64
_TEXT_LENGTH = 1000


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_positive(value: object) -> bool:
    # msgpack has no integers beyond 64 bits.
    is_number = isinstance(value, float) or (_is_whole(value) and abs(value) < 2**63)  # type: ignore[arg-type]
    return is_number and math.isfinite(value) and value > 0  # type: ignore[arg-type, operator]


def _is_rate(value: object) -> bool:
    return _is_positive(value) and value <= MAX_RATE  # type: ignore[operator]


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class _Argument:
    expected: str
    is_valid: Callable[[object], bool]
    is_required: bool = False


OPS: Mapping[str, Mapping[str, _Argument]] = {
    "stop": {"save": _Argument("true or false", _is_bool)},
    "save": {},
    "evaluate": {},
    "log": {},
    "pause": {"seconds": _Argument("a finite number above 0", _is_positive)},
    "resume": {},
    "set_lr": {
        "lr": _Argument(f"a number above 0 and at most {MAX_RATE:,}", _is_rate, is_required=True)
    },
}
"""What can be asked of a training, and with which arguments."""


def current_user() -> str:
    """The user of this process, for ``issued_by``: ``ada@host``."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # no name for this user id
        user = "somebody"
    return f"{user}@{platform.node()}"


@dataclass(frozen=True)
class Command:
    """One command. It is applied once, however often the same ``id`` is sent.

    ``expires_at`` is in seconds since the epoch; a training that finds it later does not apply it.
    With an ``attempt`` only that one applies it; without, whichever trains or is the next to train.

    Raises:
        CommandError: no such ``op``, or not its arguments.
    """

    op: str
    args: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    issued_by: str = field(default_factory=current_user)
    expires_at: float = field(default_factory=lambda: time.time() + EXPIRES_SECONDS)
    id: str = field(default_factory=lambda: secrets.token_hex(6))
    attempt: str = ""

    def __post_init__(self) -> None:
        _validate(self)

    def to_data(self) -> dict[str, Any]:
        """The data of its ``command`` event."""
        return {
            "id": self.id,
            "op": self.op,
            "args": dict(self.args),
            "reason": self.reason,
            "issued_by": self.issued_by,
            "expires_at": self.expires_at,
            "attempt": self.attempt,
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any] | None) -> Command:
        """The command of a ``command`` event; unknown fields are ignored.

        Raises:
            CommandError: it is not a command.
        """
        if data is None or not data.get("id"):
            raise CommandError("a command", data, "one with an id")
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        if "op" not in known:
            raise unknown_op_error(None)
        return cls(**known)


def unknown_op_error(op: object) -> CommandError:
    """The error for an unknown op."""
    return CommandError("op", op, f"one of {', '.join(OPS)}")


def describe_request(op: str, args: Mapping[str, Any]) -> str:
    """The op with its arguments: ``set_lr 1e-05``, ``pause 90 s``, ``stop without saving``."""
    if op == "set_lr" and "lr" in args:
        return f"{op} {_number(args['lr'])}"
    if op == "pause" and "seconds" in args:
        return f"{op} {_number(args['seconds'])} s"
    return "stop without saving" if op == "stop" and args.get("save") is False else op


def detail(data: Mapping[str, Any]) -> str:
    """The details in the data of an answer as a sentence; empty if there are none."""
    if isinstance(data.get("why"), str):
        return str(data["why"])
    if "from" in data and "to" in data:
        return f"from {_number(data['from'])} to {_number(data['to'])}"
    if "by" in data:
        return f"by {data['by']}"
    return ""


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _validate(command: Command) -> None:
    for name in ("id", "issued_by", "reason", "attempt"):
        text, longest = getattr(command, name), _ID_LENGTH if name == "id" else _TEXT_LENGTH
        if not isinstance(text, str) or len(text) > longest:
            raise CommandError(name, text, f"a text of at most {longest} characters")
    if not _is_positive(command.expires_at):
        raise CommandError("expires_at", command.expires_at, "seconds since 1970")
    if not isinstance(command.op, str) or command.op not in OPS:
        raise unknown_op_error(command.op)
    if not isinstance(command.args, Mapping):
        raise CommandError("args", command.args, "names and values")
    known = OPS[command.op]
    for name, value in command.args.items():
        if name not in known:
            only = f"only the argument {', '.join(known)}" if known else "no arguments"
            raise CommandError(f"{command.op} {name}", value, only)
        if not known[name].is_valid(value):
            raise CommandError(f"{command.op} {name}", value, known[name].expected)
    for name, argument in known.items():
        if argument.is_required and name not in command.args:
            raise CommandError(f"{command.op} {name}", None, argument.expected)
