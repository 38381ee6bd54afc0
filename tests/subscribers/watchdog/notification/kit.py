"""Alerts, targets and a state file for tests of notifications."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lineside.subscribers.state.state_file import StateFile
from lineside.subscribers.watchdog.alert import Alert, AlertChange
from lineside.subscribers.watchdog.notification.message import Message
from lineside.subscribers.watchdog.notification.outbox import Outbox
from lineside.subscribers.watchdog.notification.target import DeliveryFailed, Target

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - of the standard's own tests

ALERT = Alert(
    id="a1",
    run="run-1",
    run_name="resnet 50",
    project="vision",
    rule="lost",
    subject="",
    state="open",
    severity="critical",
    summary="the training ended without reporting why",
    action="lineside show run-1",
    opened_at=1_795_000_000.0,
    updated_at=1_795_000_060.0,
    details={
        "step": 1200,
        "max_steps": 5000,
        "epoch": 2.4,
        "metrics": {"loss": 0.25, "grad_norm": float("nan")},
        "host": "gpu-7",
        "exit": "signal 9 (SIGKILL)",
        "free_gpus": 3,
        "output": "step 1199\nstep 1200",
    },
)


def alert(number: int = 1, **changes: Any) -> Alert:
    return replace(ALERT, id=f"a{number}", **changes)


def closed(number: int = 1) -> Alert:
    return alert(number, state="closed", closed_at=ALERT.opened_at + 600)


class State(StateFile):
    tables = ""
    owner = "another test"
    remedy = "none"


@dataclass
class Recording:
    """A sender that notes messages, and fails with the ``failures`` first."""

    failures: list[DeliveryFailed] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    max_messages: int = 1
    name: str = "recording"

    def send(self, messages: Sequence[Message]) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.messages += messages
        self.sizes.append(len(messages))

    @property
    def events(self) -> list[str]:
        return [f"{one.alert.id} {one.event}" for one in self.messages]


def add(state: StateFile, outbox: Outbox, *changes: tuple[AlertChange, Alert]) -> None:
    for change, one in changes:
        with state.transaction() as db:
            outbox.add(db, change, one)


def deliver_all(outbox: Outbox, target: Target) -> None:
    """Deliver to a ``Recording`` as the notifier does, without its delays."""
    while waiting := outbox.next(target):
        try:
            target.sender.send([one.message for one in waiting])
        except DeliveryFailed:
            outbox.failed(target, waiting)
            return
        outbox.delivered(target, waiting)
