"""What waits for which target, and as which message it goes out."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from lineside.subscribers.watchdog.notification import outbox as module
from lineside.subscribers.watchdog.notification.outbox import Outbox
from lineside.subscribers.watchdog.notification.target import AlertFilter, DeliveryFailed, Target
from tests.subscribers.watchdog.notification.kit import (
    Recording,
    State,
    add,
    alert,
    closed,
    deliver_all,
)


@pytest.fixture
def state() -> State:
    return State()


@pytest.fixture
def sender() -> Recording:
    return Recording()


@pytest.fixture
def target(sender: Recording) -> Target:
    return Target("t1", "one", sender)


def test_a_target_that_takes_all_gets_opening_reminder_and_closing(
    state: State, target: Target, sender: Recording
) -> None:
    outbox = Outbox(state, [target])
    for change in (("opened", alert()), ("updated", alert()), ("reminder", alert())):
        add(state, outbox, change)
        deliver_all(outbox, target)
    add(state, outbox, ("closed", closed()))
    deliver_all(outbox, target)
    assert sender.events == ["a1 opened", "a1 reminder", "a1 closed"]
    assert sender.messages[-1].was_announced
    assert len({one.id for one in sender.messages}) == 3
    assert outbox.waiting_count(target) == 0


def test_an_opening_that_closed_before_its_delivery_is_one_message(
    state: State, target: Target, sender: Recording
) -> None:
    outbox = Outbox(state, [target])
    add(state, outbox, ("opened", alert()), ("reminder", alert()), ("closed", closed()))
    deliver_all(outbox, target)
    assert sender.events == ["a1 closed"]
    assert not sender.messages[0].was_announced


def test_a_reminder_of_an_opening_that_never_arrived_is_the_opening(
    state: State, target: Target, sender: Recording
) -> None:
    outbox = Outbox(state, [target])
    add(state, outbox, ("opened", alert()), ("reminder", alert(summary="newest")))
    deliver_all(outbox, target)
    assert sender.events == ["a1 opened"]
    assert sender.messages[0].alert.summary == "newest"


def test_what_changes_while_a_message_is_on_its_way_is_sent_after_it(
    state: State, target: Target, sender: Recording
) -> None:
    outbox = Outbox(state, [target])
    add(state, outbox, ("opened", alert()))
    on_its_way = outbox.next(target)
    add(state, outbox, ("closed", closed()))
    outbox.delivered(target, on_its_way)
    deliver_all(outbox, target)
    assert sender.events == ["a1 closed"]
    assert sender.messages[0].was_announced

    add(state, outbox, ("opened", alert(2)))
    deliver_all(outbox, target)
    add(state, outbox, ("closed", closed(2)))
    on_its_way = outbox.next(target)
    add(state, outbox, ("opened", alert(2)))
    outbox.delivered(target, on_its_way)
    deliver_all(outbox, target)
    assert sender.events[-1] == "a2 opened"


def test_a_repeated_attempt_has_the_same_id_as_at_every_target(state: State) -> None:
    targets = [Target("t1", "one", Recording()), Target("t2", "two", Recording())]
    outbox = Outbox(state, targets)
    add(state, outbox, ("opened", alert()))
    ids = set()
    for target in targets * 2:
        waiting = outbox.next(target)
        outbox.failed(target, waiting)
        ids |= {one.message.id for one in waiting}
    assert len(ids) == 1


def test_a_message_that_a_target_refuses_does_not_keep_it_from_others(
    state: State, target: Target, sender: Recording
) -> None:
    outbox = Outbox(state, [target])
    add(state, outbox, ("opened", alert(1)), ("opened", alert(2)), ("opened", alert(3)))
    sender.failures = [DeliveryFailed("refused")]
    deliver_all(outbox, target)
    deliver_all(outbox, target)
    assert sender.events == ["a2 opened", "a3 opened", "a1 opened"]


def test_a_closing_goes_only_to_targets_that_had_the_opening(state: State) -> None:
    critical, vision = Recording(), Recording()
    targets = [
        Target("t1", "one", critical, AlertFilter(severity="critical")),
        Target("t2", "two", vision, AlertFilter(projects=["vis*"], rules=["lost"])),
    ]
    outbox = Outbox(state, targets)
    changes = [
        alert(1, severity="warning"),
        alert(2, project="text"),
        alert(3, rule="stalled", severity="info"),
    ]
    for one in changes:
        add(state, outbox, ("opened", one))
    for number in (1, 2, 3):
        add(state, outbox, ("closed", closed(number)))
    for target in targets:
        deliver_all(outbox, target)
    assert critical.events == ["a2 closed"]
    assert vision.events == ["a1 closed"]


def test_many_messages_go_as_one_to_a_target_that_takes_several(state: State) -> None:
    person, program = Recording(max_messages=50), Recording()
    targets = [Target("t1", "one", person), Target("t2", "two", program)]
    outbox = Outbox(state, targets)
    for number in range(60):
        add(state, outbox, ("opened", alert(number)))
    for target in targets:
        deliver_all(outbox, target)
    assert person.sizes == [50, 10]
    assert program.sizes == [1] * 60
    for number in range(3):
        add(state, outbox, ("closed", closed(number)))
    deliver_all(outbox, targets[0])
    assert person.sizes == [50, 10, 1, 1, 1]


def test_an_alert_that_opens_and_closes_at_once_is_one_message(
    state: State, target: Target, sender: Recording
) -> None:
    outbox = Outbox(state, [target])
    add(state, outbox, ("opened", closed()))
    deliver_all(outbox, target)
    add(state, outbox, ("closed", closed()))
    deliver_all(outbox, target)
    assert sender.events == ["a1 opened"]


def test_a_target_is_not_sent_that_it_takes_nothing(state: State) -> None:
    failing, other = Recording(), Recording()
    targets = [Target("t1", "one", failing), Target("t2", "two", other)]
    outbox = Outbox(state, targets)
    add(state, outbox, ("opened", alert(rule="notification_failing", subject="one")))
    for target in targets:
        deliver_all(outbox, target)
    assert (failing.events, other.events) == ([], ["a1 opened"])


def test_nothing_is_queued_if_the_transaction_of_the_caller_fails(
    state: State, target: Target
) -> None:
    outbox = Outbox(state, [target])
    with pytest.raises(ZeroDivisionError), state.transaction() as db:  # noqa: PT012
        outbox.add(db, "opened", alert())
        raise ZeroDivisionError
    assert outbox.next(target) == []


def test_what_was_tried_for_days_is_given_up_with_a_line_in_the_log(
    state: State,
    target: Target,
    sender: Recording,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    outbox = Outbox(state, [target])
    add(state, outbox, ("opened", alert(1)), ("opened", alert(2)))
    sender.failures = [DeliveryFailed("down")]
    deliver_all(outbox, target)
    monkeypatch.setattr(module, "EXPIRES_SECONDS", -1.0)
    deliver_all(outbox, target)
    assert sender.events == ["a2 opened"], "an untried message does not expire"
    assert "one was not notified that lost of run-1 opened: given up after" in caplog.text


def test_queues_survive_a_restart_and_for_days_the_removal_of_their_target(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, removed = Target("t1", "one", Recording()), Target("t2", "two", Recording())
    state = State(tmp_path / "state.db")
    add(state, Outbox(state, [kept, removed]), ("opened", alert()))
    state.close()
    state = State(tmp_path / "state.db")
    with caplog.at_level(logging.WARNING):
        outbox = Outbox(state, [kept])
    assert "1 notification waits for targets that are not in the configuration" in caplog.text
    assert outbox.waiting_count(kept) == 1
    assert Outbox(state, [kept, removed]).waiting_count(removed) == 1
    monkeypatch.setattr(module, "EXPIRES_SECONDS", -1.0)
    assert Outbox(state, [kept]).waiting_count(removed) == 0
    assert outbox.waiting_count(kept) == 1
    state.close()


def test_a_row_of_another_version_is_read(state: State, target: Target) -> None:
    outbox = Outbox(state, [target])
    add(state, outbox, ("opened", alert()))
    with state.transaction() as db:
        db.execute("UPDATE notifications SET data='{\"new\": 1, ' || substr(data, 2)")
    assert outbox.next(target)[0].message.alert.summary == alert().summary
