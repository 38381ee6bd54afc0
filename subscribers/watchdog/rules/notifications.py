"""A rule about notifications themselves: who should have been notified knows nothing."""

from __future__ import annotations

from lineside.subscribers.watchdog.alert import NOTIFICATION_FAILING
from lineside.subscribers.watchdog.observation import StackObservation
from lineside.subscribers.watchdog.rules.rule import Finding, Findings, StackRule, hold

FIRST_SECONDS = 90.0
"""After so long each target for which something waits was tried."""


class NotificationFailing(StackRule):
    name = NOTIFICATION_FAILING
    doc = (
        "a target took no notification at the last attempt; the alert goes to the page and to the "
        "other targets"
    )
    for_: float = hold(600)

    def judge(self, stack: StackObservation) -> Findings:
        if stack.watched_for < FIRST_SECONDS:
            return None
        return [
            Finding(problem, "lineside watchdog --test-notification", target)
            for target, problem in stack.failing_targets.items()
        ]
