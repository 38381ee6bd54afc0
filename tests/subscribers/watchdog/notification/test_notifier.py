"""Delivery by threads: back-off, targets that do not disturb each other, ends in between."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lineside.subscribers.watchdog.notification.apprise_target import AppriseService
from lineside.subscribers.watchdog.notification.notifier import Notifier
from lineside.subscribers.watchdog.notification.outbox import Outbox
from lineside.subscribers.watchdog.notification.target import DeliveryFailed, Target
from lineside.subscribers.watchdog.notification.webhook import Webhook
from tests.subscribers.watchdog.notification.kit import (
    SECRET,
    Recording,
    State,
    add,
    alert,
    closed,
)
from tests.subscribers.watchdog.notification.smtp_server import smtp_server
from tests.support.http_receiver import DROP, HANG, HttpReceiver, http_receiver
from tests.support.waiting import wait_until

FIRST_DELAY = 0.05


@contextmanager
def notifying(state: State, *targets: Target) -> Iterator[tuple[Outbox, Notifier]]:
    outbox = Outbox(state, targets)
    notifier = Notifier(outbox, FIRST_DELAY)
    notifier.start()
    try:
        yield outbox, notifier
    finally:
        notifier.close(5)


def ids(receiver: HttpReceiver) -> list[str]:
    return [request.headers["webhook-id"] for request in receiver.taken]


def test_a_target_that_refuses_three_times_gets_each_message_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Apprise sends an e-mail every 5 s at most.
    monkeypatch.setattr("apprise.plugins.base.NotifyBase.request_rate_per_sec", 0)
    with (
        http_receiver(500, DROP, 404) as receiver,
        smtp_server(refusals=3) as server,
        notifying(
            state := State(),
            Target("w", "webhook", Webhook(receiver.url, SECRET)),
            Target(
                "m",
                "mail",
                AppriseService(
                    f"mailto://127.0.0.1:{server.port}/?from=a@example.org&to=b@example.org"
                ),
            ),
        ) as (outbox, notifier),
    ):
        add(state, outbox, ("opened", alert()))
        notifier.wake()
        wait_until(lambda: receiver.taken and server.mails)
        add(state, outbox, ("closed", closed()))
        notifier.wake()
        wait_until(lambda: len(receiver.taken) > 1 and len(server.mails) > 1)
        wait_until(lambda: not any(map(outbox.waiting_count, outbox.targets)))
        assert notifier.problems() == {}
    assert len(receiver.requests) == 5
    assert len({request.headers["webhook-id"] for request in receiver.requests[:4]}) == 1
    assert [one.json["type"] for one in receiver.taken] == ["alert.opened", "alert.closed"]
    assert server.attempts == 5
    assert [mail["Subject"].partition("]")[0] for mail in server.mails] == [
        "[CRITICAL",
        "[Resolved",
    ]


def test_a_target_that_hangs_delays_no_other() -> None:
    with http_receiver(*[HANG] * 9) as hanging, http_receiver() as receiver:
        slow = Target("h", "hanging", Webhook(hanging.url, SECRET, timeout=60))
        quick = Target("q", "quick", Webhook(receiver.url, SECRET))
        with notifying(state := State(), slow, quick) as (outbox, notifier):
            for number in range(20):
                add(state, outbox, ("opened", alert(number)))
            notifier.wake()
            wait_until(lambda: len(receiver.taken) == 20)
            assert len(hanging.requests) == 1
            assert outbox.waiting_count(slow) == 20
            hanging.close()


def test_a_pause_that_a_receiver_asks_for_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    with http_receiver((429, {"Retry-After": "1"})) as receiver:
        target = Target("w", "webhook", Webhook(receiver.url, SECRET))
        with notifying(state := State(), target) as (outbox, notifier), caplog.at_level("INFO"):
            add(state, outbox, ("opened", alert(1)))
            notifier.wake()
            wait_until(notifier.problems)
            add(state, outbox, ("opened", alert(2)))
            notifier.wake()
            wait_until(lambda: len(receiver.taken) == 2)
            assert receiver.requests[1].time - receiver.requests[0].time >= 1
    assert "did not take a notification: the answer was 429 Too Many Requests" in caplog.text
    assert "webhook takes notifications again" in caplog.text


def test_a_receiver_that_is_gone_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    with http_receiver(410) as receiver:
        target = Target("w", "webhook", Webhook(receiver.url, SECRET))
        with notifying(state := State(), target) as (outbox, notifier):
            add(state, outbox, ("opened", alert(1)))
            notifier.wake()
            wait_until(lambda: "1 notification dropped" in caplog.text)
            add(state, outbox, ("opened", alert(2)))
            assert outbox.waiting_count(target) == 0
            assert notifier.problems() == {
                "webhook": "webhook wants no more notifications: the answer was 410 Gone"
            }
        assert len(receiver.requests) == 1


def test_delays_grow_and_are_capped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("lineside.subscribers.watchdog.notification.notifier.MAX_DELAY", 0.1)
    sender = Recording([DeliveryFailed("down")] * 6)
    begin = time.monotonic()
    with notifying(state := State(), Target("t", "one", sender)) as (outbox, notifier):
        add(state, outbox, ("opened", alert()))
        notifier.wake()
        wait_until(lambda: sender.messages)
    assert time.monotonic() - begin >= 0.8 * (0.05 + 5 * 0.1)
    assert len([one for one in caplog.records if one.levelno == logging.WARNING]) == 6


def test_an_error_in_a_services_code_is_a_failure_like_any(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sender = Recording([ValueError("secret")])  # type: ignore[list-item]
    with notifying(state := State(), Target("t", "one", sender)) as (outbox, notifier):
        add(state, outbox, ("opened", alert()))
        notifier.wake()
        wait_until(lambda: sender.messages)
    assert "one did not take a notification: a ValueError" in caplog.text
    assert "secret" not in caplog.text


def test_a_fault_of_ours_does_not_end_a_queue(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("lineside.subscribers.watchdog.notification.notifier._STATE_DELAY", 0.02)
    sender = Recording()
    with notifying(state := State(), Target("t", "one", sender)) as (outbox, notifier):
        add(state, outbox, ("opened", alert()))
        with state.transaction() as db:
            db.execute("UPDATE notifications SET data='no JSON'")
        notifier.wake()
        wait_until(lambda: "a notification to one failed" in caplog.text)
        add(state, outbox, ("reminder", alert()))
        wait_until(lambda: sender.messages)


def test_a_file_that_cannot_be_written_for_a_while_sends_nothing_twice(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("lineside.subscribers.watchdog.notification.notifier._STATE_DELAY", 0.02)
    sender, state = Recording(), State()
    with notifying(state, Target("t", "one", sender)) as (outbox, notifier):
        delivered = outbox.delivered
        faults = [sqlite3.OperationalError("database or disk is full")] * 3

        def fail_first(*args: object) -> None:
            if faults:
                with state.transaction():
                    raise faults.pop()
            delivered(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(outbox, "delivered", fail_first)
        add(state, outbox, ("opened", alert()))
        notifier.wake()
        wait_until(lambda: not faults and not outbox.waiting_count(outbox.targets[0]))
    assert len(sender.messages) == 1
    assert caplog.text.count("disk is full") == 1


PROCESS = """
import sys
from pathlib import Path
from lineside.subscribers.watchdog.notification.notifier import Notifier
from lineside.subscribers.watchdog.notification.outbox import Outbox
from lineside.subscribers.watchdog.notification.target import Target
from lineside.subscribers.watchdog.notification.webhook import Webhook
from tests.subscribers.watchdog.notification.kit import SECRET, State, add, alert
state = State(Path(sys.argv[1]))
outbox = Outbox(state, [Target("w", "webhook", Webhook(sys.argv[2], SECRET))])
notifier = Notifier(outbox, 0.05)
notifier.start()
if sys.argv[3] == "add":
    for number in range(10):
        add(state, outbox, ("opened", alert(number)))
        notifier.wake()
while outbox.waiting_count(outbox.targets[0]):
    pass
notifier.close(5)
"""


@pytest.mark.fault
def test_a_kill_in_the_midst_of_delivery_loses_nothing_and_repeats_at_most_one(
    tmp_path: Path,
) -> None:
    def process(action: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-c", PROCESS, str(tmp_path / "state.db"), receiver.url, action]
        return subprocess.Popen(argv, cwd=Path(__file__).parents[4], env={**os.environ})

    with http_receiver(204, 204, 500, 204, HANG) as receiver:
        with process("add") as first:
            wait_until(lambda: len(receiver.requests) == 5)
            first.send_signal(signal.SIGKILL)
        with process("resume") as second:
            assert second.wait(60) == 0
        found = ids(receiver)
    assert len(set(found)) == 10
    assert len(found) <= 11
    assert {one.json["data"]["id"] for one in receiver.taken} == {f"a{n}" for n in range(10)}
