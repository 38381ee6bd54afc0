"""Notifications and heartbeat as the watchdog uses them."""

from __future__ import annotations

from pathlib import Path

from lineside.subscribers.watchdog.notification.notifications import (
    NotificationOptions,
    Notifications,
)
from lineside.subscribers.watchdog.notification.target import Target
from tests.subscribers.watchdog.notification.kit import Recording, State, add, alert
from tests.support.http_receiver import http_receiver
from tests.support.waiting import wait_until


def test_what_waited_at_the_end_is_sent_at_the_next_start(tmp_path: Path) -> None:
    sender = Recording()
    state = State(tmp_path / "state.db")
    options = NotificationOptions([Target("t", "one", sender)], page="https://page.example")
    never_started = Notifications(state, options)
    add(state, never_started.outbox, ("opened", alert()))
    never_started.close(1)
    notifications = Notifications(state, options)
    notifications.start()
    wait_until(lambda: sender.messages)
    notifications.close(5)
    state.close()
    assert sender.messages[0].link == "https://page.example/runs/run-1"
    assert notifications.problems() == {}


def test_the_heartbeat_is_sent_with_the_first_judgement() -> None:
    with http_receiver() as receiver:
        notifications = Notifications(State(), NotificationOptions(heartbeat_url=receiver.url))
        notifications.start()
        notifications.beat()
        wait_until(lambda: receiver.requests)
        notifications.close(5)
