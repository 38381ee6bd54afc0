"""Refusals are counted by caller and action, bounded, and reported to the last one."""

from __future__ import annotations

import math

from lineside.bus.auth.refusal_log import ANONYMOUS_MAX, OTHERS, Refusal, RefusalLog


def refusal(who: str, target: str = "run/rank0/a", role: str = "read") -> Refusal:
    return Refusal(who, role, "publish", target, "because")


def test_a_refusal_is_reported_at_once_then_counted_and_reported_once_a_minute() -> None:
    refusal_log = RefusalLog()
    refusal_log.add(refusal("a"))
    [report] = refusal_log.take_due(100.0)
    assert report == {
        "who": "a",
        "role": "read",
        "action": "publish",
        "target": "run/rank0/a",
        "why": "because",
        "count": 1,
    }
    for _ in range(7):
        refusal_log.add(refusal("a"))
    refusal_log.add(refusal("b"))
    assert [(one["who"], one["count"]) for one in refusal_log.take_due(101.0)] == [("b", 1)]
    assert refusal_log.take_due(159.0) == []
    assert refusal_log
    assert [(one["who"], one["count"]) for one in refusal_log.take_due(160.0)] == [("a", 7)]
    assert not refusal_log
    assert refusal_log.take_due(300.0) == []
    refusal_log.add(refusal("a"))
    assert [one["count"] for one in refusal_log.take_due(300.0)] == [1]


def test_targets_of_one_caller_are_one_report_with_the_newest_target() -> None:
    refusal_log = RefusalLog()
    for number in range(8):
        refusal_log.add(refusal("a", f"run{number}/rank0/a"))
    refusal_log.add(Refusal("a", "read", "subscribe", "run9", "because"))
    reports = [(one["action"], one["target"], one["count"]) for one in refusal_log.take_due(1.0)]
    assert reports == [("publish", "run7/rank0/a", 8), ("subscribe", "run9", 1)]


def test_a_flood_of_addresses_is_bounded_and_counted_to_the_last() -> None:
    refusal_log = RefusalLog()
    reports = []
    for number in range(10_000):
        refusal_log.add(refusal(f"x{number}" * 100, role=""))
        if number % 100 == 0:
            reports += refusal_log.take_due(number / 1000)
    assert len(reports) == ANONYMOUS_MAX + 1
    reports += refusal_log.take_due(math.inf)
    assert len(reports) <= 2 * (ANONYMOUS_MAX + 1)
    assert sum(one["count"] for one in reports) == 10_000
    assert OTHERS in {one["who"] for one in reports}
    assert max(len(one["who"]) for one in reports) <= 300


def test_a_flood_of_anonymous_callers_does_not_hide_named_ones() -> None:
    refusal_log = RefusalLog()
    for number in range(1000):
        refusal_log.add(refusal("10.0.0.1", f"/x{number}", role=""))
        refusal_log.add(refusal(f"10.1.0.{number}", role=""))
        refusal_log.add(refusal("eve", f"run{number}"))
    refusal_log.add(refusal("mallory", "secret/rank0/a"))
    named = [one for one in refusal_log.take_due(100.0) if one["role"]]
    assert [(one["who"], one["target"], one["count"]) for one in named] == [
        ("eve", "run999", 1000),
        ("mallory", "secret/rank0/a", 1),
    ]


def test_every_anonymous_caller_has_a_turn_once_the_counts_before_are_reported() -> None:
    refusal_log = RefusalLog()
    reports = []
    for minute in range(3):
        for number in range(30):
            if minute != 1:
                refusal_log.add(refusal(f"10.0.{minute}.{number}", role=""))
        reports += refusal_log.take_due(100.0 + 60 * minute)
    callers = {one["who"] for one in reports}
    assert callers == {OTHERS} | {
        f"10.0.{minute}.{number}" for minute in (0, 2) for number in range(ANONYMOUS_MAX)
    }
