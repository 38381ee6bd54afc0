"""Rules about disks and about Lineside itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from lineside.store.history.records import LossAccount
from lineside.subscribers.watchdog.observation import CursorLag, Disk, StackObservation
from lineside.subscribers.watchdog.rules.disks import DiskFilling, time_left
from lineside.subscribers.watchdog.rules.lineside import (
    BrokerUnreachable,
    RecorderLagging,
    SpoolLagging,
    StoreUnreadable,
    SubscriberLagging,
)
from lineside.subscribers.watchdog.rules.notifications import NotificationFailing
from lineside.subscribers.watchdog.rules.rule import Finding, StackRule, Undecided
from tests.subscribers.watchdog.observing import NOW, observed, run, samples

GB = float(1 << 30)
STACK = StackObservation(NOW, "ipc:///home/bus.sock", spool="/home/spool")


def findings(rule: StackRule, stack: StackObservation) -> list[Finding]:
    found = rule.judge(stack)
    assert found is not None
    return [one for one in found if isinstance(one, Finding)]


def disk(free: Sequence[float], size: float = 1000 * GB) -> StackObservation:
    one = Disk("/data", "home, store", int(size), samples([value * GB for value in free]))
    return replace(STACK, disks=(one,))


HOUR = 360  # samples


@pytest.mark.parametrize(
    ("free", "summary", "severity"),
    [
        ([500.0] * HOUR, None, None),
        ([500.0 - n for n in range(HOUR)], "141 GiB (14 %) free", "critical"),
        ([500.0 - n / 3 for n in range(HOUR)], ", full in 3 h 10 min", None),
        ([500.0 - n / 20 for n in range(HOUR)], None, None),  # in eleven hours
        ([900.0] * 200 + [500.0] * 160, None, None),  # one large file
        ([900.0] * 200 + [900.0 - 10 * n for n in range(25)] + [650.0] * 135, None, None),
        ([300.0 - 50 * (n // 100) for n in range(HOUR)], "150 GiB", None),  # one more each time
        ([500.0, 480.0] * 180, None, None),  # checkpoints that come and go
        ([500.0 + n for n in range(HOUR)], None, None),
        ([500.0 - 4 * n for n in range(110)], None, None),  # too short a time for a trend
        ([18.0] * 2, "18 GiB (1.8 %) free", None),
        ([5.0] * 2, "5 GiB (0.5 %) free on /data (home, store) of this machine", "critical"),
        ([0.0] * 2, "0 B (0 %) free", "critical"),
    ],
)
def test_a_disk_is_judged_by_its_space_and_by_its_trend(
    free: list[float], summary: str | None, severity: str | None
) -> None:
    found = findings(DiskFilling(), disk(free))
    assert len(found) == (summary is not None)
    for one in found:
        assert summary is not None
        assert summary in one.summary
        assert (one.severity, one.subject, one.action) == (severity, "/data", "df -h /data")


def test_a_large_part_of_a_large_disk_is_not_little() -> None:
    assert findings(DiskFilling(), disk([200.0] * 2, 10_000 * GB)) == []
    assert findings(DiskFilling(), disk([3.0] * 2, 20 * GB)) == []


def test_the_time_left_is_that_of_the_trend() -> None:
    window = samples([100.0 - n / 10 for n in range(HOUR)])
    assert time_left(window) == pytest.approx(100 * window.points[-1].value, rel=0.02)


def test_the_disks_of_trainings_are_judged_once_for_each_machine() -> None:
    metrics = {
        "filesystem/output/available_bytes": samples([1e9] * 2),
        "filesystem/output/size_bytes": samples([2e12] * 2),
        "filesystem/spool/available_bytes": samples([1e12] * 2),
        "filesystem/spool/size_bytes": samples([3e12] * 2),
    }
    runs = tuple(observed(disks={"node": metrics}) for _ in range(3))
    [found] = findings(DiskFilling(), replace(STACK, runs=runs))
    assert found.subject == "node output 1.82 TiB"
    assert found.summary.startswith("954 MiB (0.05 %) free on the output of a run on node")
    unreadable = replace(STACK, runs=runs, store_problem="gone")
    assert len(findings(DiskFilling(), unreadable)) == 1, "a full disk may be why"


def test_nothing_is_found_where_everything_answers() -> None:
    rules = (BrokerUnreachable(), StoreUnreadable(), RecorderLagging(), SpoolLagging())
    assert [findings(rule, STACK) for rule in (*rules, SubscriberLagging())] == [[]] * 5


def test_a_broker_that_does_not_answer_is_unreachable_and_hides_what_is_behind_it() -> None:
    stack = replace(
        STACK, broker_silence=7.0, recorder_lag=100.0, spool_silence=500.0, spool_waiting=3,
        cursors=(CursorLag("slack", 9999.0),),
    )  # fmt: skip
    [found] = findings(BrokerUnreachable(), stack)
    assert found.summary == "no broker answers at ipc:///home/bus.sock"
    hidden = (RecorderLagging(), SpoolLagging(), SubscriberLagging())
    assert [rule.judge(stack) for rule in hidden] == [None] * 3


def test_a_recorder_that_is_behind_is_reported_with_its_lag() -> None:
    stack = replace(STACK, recorder_lag=90.0, recorder_entries=12)
    [found] = findings(RecorderLagging(), stack)
    assert found.summary == "the recorder is 2 min behind the broker (12 journal entries)"
    assert findings(RecorderLagging(), replace(stack, recorder_lag=20.0)) == []


def test_a_store_that_cannot_be_read_is_reported() -> None:
    [found] = findings(StoreUnreadable(), replace(STACK, store_problem="it is locked"))
    assert found.summary == "it is locked"
    assert RecorderLagging().judge(replace(STACK, store_problem="it is locked")) is None


def test_a_spool_whose_events_are_not_confirmed_is_reported() -> None:
    [found] = findings(SpoolLagging(), replace(STACK, spool_silence=150.0, spool_waiting=3))
    assert found.summary == "3 events wait in /home/spool, some for 2 min"
    assert found.action == "lineside ship"


def test_a_training_with_many_events_on_their_way_is_reported_unless_the_recorder_lags() -> None:
    many = observed()
    many.run = run(loss_account=LossAccount(100_000, 20_000, 0, 80_000))
    stack = replace(STACK, runs=(many,))
    [found] = findings(SpoolLagging(), stack)
    assert found.summary == "80,000 events of a run wait"
    assert findings(SpoolLagging(), replace(stack, recorder_lag=1.0)) == []


def test_a_subscriber_that_leaves_an_event_for_long_is_reported_but_not_the_recorder() -> None:
    cursors = (
        CursorLag("slack", 3600.0),
        CursorLag("recorder", 3600.0),
        CursorLag("other", 5.0),
        CursorLag("gone", 90_000.0, 90_000.0),
    )
    [found] = findings(SubscriberLagging(), replace(STACK, cursors=cursors))
    assert (found.subject, found.summary) == ("slack", "slack is 1 h behind the broker")


def test_a_target_that_takes_nothing_is_an_alert_of_its_own() -> None:
    assert findings(NotificationFailing(), STACK) == []
    problem = "pager did not take a notification: no answer in time"
    [found] = findings(NotificationFailing(), replace(STACK, failing_targets={"pager": problem}))
    assert (found.subject, found.summary) == ("pager", problem)


def test_after_a_restart_what_takes_time_to_see_is_undecided() -> None:
    young = replace(disk([500.0] * 30), spool_waiting=3, watched_for=60.0)
    for rule, subject in ((DiskFilling(), "/data"), (SpoolLagging(), STACK.spool)):
        assert list(rule.judge(young) or ()) == [Undecided(subject)]
    assert NotificationFailing().judge(young) is None
    old = replace(disk([500.0] * HOUR), spool_waiting=3)
    for one in (DiskFilling(), SpoolLagging(), NotificationFailing()):
        assert list(one.judge(old) or ()) == []
