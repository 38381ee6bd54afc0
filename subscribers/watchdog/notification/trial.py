"""Sends a test message to each target, to see whether it arrives."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lineside.subscribers.watchdog.notification.message import Message, trial_message
from lineside.subscribers.watchdog.notification.target import DeliveryFailed, Target


@dataclass(frozen=True)
class TrialResult:
    """``problem`` is empty if the target ``name`` took the message."""

    name: str
    problem: str


def try_targets(targets: Sequence[Target], page: str = "") -> Iterator[TrialResult]:
    """Send one message to all ``targets`` at once; their results in the same order."""
    if not targets:
        return
    message = trial_message(f"msg_{secrets.token_hex(12)}", page)
    with ThreadPoolExecutor(len(targets)) as pool:
        yield from pool.map(lambda target: _send(target, message), targets)


def _send(target: Target, message: Message) -> TrialResult:
    try:
        target.sender.send([message])
    except DeliveryFailed as error:
        return TrialResult(target.name, str(error))
    except Exception as error:  # noqa: BLE001 - of a service's own code; its text may be secret
        return TrialResult(target.name, f"a {type(error).__name__}")
    return TrialResult(target.name, "")
