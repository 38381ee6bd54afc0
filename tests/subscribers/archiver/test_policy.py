"""Which checkpoints of a run an archive keeps, and why."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lineside.subscribers.archiver.policy import (
    Decision,
    KeepOptions,
    KnownCheckpoint,
    decide,
)

HOUR = 3600.0
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def saved(step: int, **changes: object) -> KnownCheckpoint:
    """An archived checkpoint of ``step``, saved one minute a step after the start."""
    known = KnownCheckpoint(
        "a1", step, f"/out/checkpoint-{step}", 1e9 + step * 60, is_archived=True, number=step
    )
    return replace(known, **changes)  # type: ignore[arg-type]


def losses(*values: float | None) -> list[KnownCheckpoint]:
    return [
        saved(step, metrics={} if value is None else {"eval_loss": value})
        for step, value in enumerate(values, 1)
    ]


def kept(checkpoints: list[KnownCheckpoint], **options: object) -> dict[int, tuple[str, ...]]:
    decisions = decide(checkpoints, KeepOptions(**options))  # type: ignore[arg-type]
    assert len(decisions) == len(checkpoints)
    return {one.checkpoint.step: one.keep for one in decisions if one.keep}


def test_without_options_every_checkpoint_is_kept() -> None:
    assert kept([saved(1), saved(2)]) == {2: ("last", "all"), 1: ("all",)}


def test_the_newest_of_the_limit_are_kept() -> None:
    assert set(kept([saved(step) for step in range(1, 6)], save_total_limit=2)) == {4, 5}


def test_the_best_take_no_place_of_the_newest() -> None:
    known = losses(0.1, 0.5, 0.3, 0.4, 0.6)
    options = {"save_total_limit": 1, "keep_best": 2, "monitor": ["eval_loss"]}
    assert kept(known, **options) == {5: ("last", "newest"), 3: ("best",), 1: ("best",)}


@pytest.mark.parametrize(
    ("metric", "mode", "best"),
    [
        ("eval_loss", "auto", 1),
        ("eval_wer", "auto", 1),
        ("eval_margin_loss", "auto", 1),
        ("eval_accuracy", "auto", 2),
        ("eval_quality", "auto", 2),
        ("eval_loss", "max", 2),
        ("eval_accuracy", "min", 1),
    ],
)
def test_the_name_of_a_metric_or_the_mode_decides_which_value_is_better(
    metric: str, mode: str, best: int
) -> None:
    known = [saved(step, metrics={metric: value}) for step, value in ((1, 0.1), (2, 0.9), (3, 0.5))]
    decisions = decide(known, KeepOptions(keep_best=1, monitor=[metric], mode=mode))
    assert [one.checkpoint.step for one in decisions if one.is_best] == [best]
    assert {one.checkpoint.step for one in decisions if one.keep} == {3, best}


def test_each_of_several_metrics_keeps_its_own_best() -> None:
    known = [
        saved(1, metrics={"eval_loss": 0.1, "eval_f1": 0.2}),
        saved(2, metrics={"eval_loss": 0.3, "eval_f1": 0.9}),
        saved(3, metrics={"eval_loss": 0.2, "eval_f1": 0.5}),
        saved(4),
    ]
    assert set(kept(known, keep_best=1, monitor=["eval_loss", "eval_f1"])) == {1, 2, 4}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_a_value_that_is_no_number_is_never_the_best(value: float | None) -> None:
    assert set(kept(losses(0.5, value, 0.6), keep_best=2, monitor=["eval_loss"])) == {1, 3}
    assert set(kept(losses(0.5, value, 0.6, 0.7), keep_best=1, monitor=["eval_loss"])) == {1, 4}


def test_of_equal_values_the_earlier_stays_the_best() -> None:
    assert set(kept(losses(0.5, 0.5, 0.5), keep_best=1, monitor=["eval_loss"])) == {1, 3}


def test_nothing_is_removed_for_a_metric_that_no_checkpoint_has() -> None:
    options = KeepOptions(keep_best=1, monitor=["eval_lss"], save_best_only=True)
    assert all("unranked" in one.keep for one in decide(losses(0.5, 0.6, 0.7), options))


def test_save_best_only_keeps_what_was_the_best_when_it_was_saved_and_the_last() -> None:
    known = losses(0.5, 0.6, 0.4, 0.45, 0.3, 0.35)
    assert set(kept(known, save_best_only=True, monitor=["eval_loss"])) == {1, 3, 5, 6}
    limited = {"save_best_only": True, "monitor": ["eval_loss"], "save_total_limit": 2}
    assert set(kept(known, **limited)) == {3, 5, 6}


def test_every_steps_keeps_the_first_checkpoint_at_or_after_each_multiple() -> None:
    known = [saved(step) for step in (300, 600, 900, 1000, 1100, 2300, 2400, 2500)]
    assert set(kept(known, every_steps=1000)) == {1000, 2300, 2500}


def test_every_hours_keeps_the_first_checkpoint_of_each_period_of_the_clock() -> None:
    start = 1e9 // HOUR * HOUR
    times = {1: 0.0, 2: HOUR / 2, 3: HOUR, 4: HOUR * 1.9, 5: HOUR * 2.5, 6: HOUR * 2.6}
    known = [saved(step, time=start + time) for step, time in times.items()]
    assert set(kept(known, every_hours=1)) == {1, 3, 5, 6}


def test_frequency_keeps_every_nth_checkpoint_and_the_last() -> None:
    assert set(kept([saved(step) for step in range(1, 8)], frequency=3)) == {3, 6, 7}


@pytest.mark.parametrize(
    ("flag", "reason"),
    [("is_pinned", "pinned"), ("is_resumed_from", "resumed_from")],
)
def test_a_checkpoint_that_is_needed_is_kept_whatever_the_limits(flag: str, reason: str) -> None:
    known = [saved(1, **{flag: True}), saved(2), saved(3)]
    assert kept(known, save_total_limit=1) == {1: (reason,), 3: ("last", "newest")}


def test_a_damaged_one_in_the_archive_is_kept_and_takes_no_place_of_a_whole_one() -> None:
    known = [saved(1), saved(2, is_whole=False), saved(3, is_whole=False, is_archived=False)]
    assert kept(known, save_total_limit=1) == {1: ("last", "newest"), 2: ("damaged",)}


def test_what_is_archived_stays_until_what_takes_its_place_is_archived() -> None:
    known = losses(0.5, 0.4)
    options = {"save_total_limit": 1, "keep_best": 1, "monitor": ["eval_loss"]}
    waiting = [known[0], replace(known[1], is_archived=False)]
    assert set(kept(waiting, **options)) == {1, 2}
    assert set(kept(known, **options)) == {2}


def test_of_a_step_that_was_saved_again_only_the_later_save_stays() -> None:
    first, again = saved(5), saved(5, time=2e9)
    waiting = replace(again, is_archived=False)
    assert [bool(one.keep) for one in decide([first, waiting], KeepOptions())] == [True, True]
    assert [bool(one.keep) for one in decide([first, again], KeepOptions())] == [True, False]


metrics = st.dictionaries(
    st.sampled_from(["eval_loss", "eval_f1"]), st.floats(allow_nan=True, width=16), max_size=2
)
checkpoints = st.lists(
    st.builds(
        KnownCheckpoint,
        attempt=st.sampled_from(["a1", "a2"]),
        step=st.integers(0, 40),
        path=st.just("/out"),
        time=st.integers(0, 20).map(lambda hours: 1e9 + hours * HOUR / 2),
        metrics=metrics,
        is_archived=st.booleans(),
        is_whole=st.booleans(),
        is_pinned=st.booleans(),
        is_resumed_from=st.booleans(),
        number=st.integers(0, 6),
    ),
    max_size=8,
    unique_by=lambda one: one.order,
)
keep_options = st.builds(
    KeepOptions,
    save_total_limit=st.integers(0, 3),
    keep_best=st.integers(0, 3),
    monitor=st.sampled_from([(), ("eval_loss",), ("eval_loss", "eval_f1"), ("absent",)]),
    mode=st.sampled_from(["auto", "min", "max"]),
    save_best_only=st.booleans(),
    every_steps=st.sampled_from([0, 5, 10]),
    every_hours=st.sampled_from([0.0, 1.0, 3.0]),
    frequency=st.integers(1, 3),
)


def by_order(decisions: list[Decision]) -> dict[tuple[object, ...], Decision]:
    return {one.checkpoint.order: one for one in decisions}


@given(checkpoints, keep_options)
@UNHURRIED
def test_the_last_whole_one_and_pinned_ones_are_always_kept(
    known: list[KnownCheckpoint], options: KeepOptions
) -> None:
    decisions = decide(known, options)
    for one in decisions:
        own = one.checkpoint
        if own.is_pinned or own.is_resumed_from:
            assert one.keep
    newest_first = [one for one in decisions if one.checkpoint.is_whole]
    archived = [one for one in newest_first if one.checkpoint.is_archived]
    for one in (*newest_first[:1], *archived[:1]):
        assert "last" in one.keep


@given(checkpoints, keep_options, st.randoms(use_true_random=False))
@UNHURRIED
def test_the_order_in_which_checkpoints_are_given_changes_nothing(
    known: list[KnownCheckpoint], options: KeepOptions, random: object
) -> None:
    shuffled = list(known)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert decide(shuffled, options) == decide(known, options)


@given(checkpoints, keep_options)
@UNHURRIED
def test_removing_what_is_not_kept_and_deciding_again_removes_nothing_more(
    known: list[KnownCheckpoint], options: KeepOptions
) -> None:
    options = replace(options, save_best_only=False)  # an improvement is one over all before it
    remaining = [one.checkpoint for one in decide(known, options) if one.keep]
    for one in decide(remaining, options):
        assert one.keep


@given(st.lists(st.floats(0, 9, width=16), min_size=1, max_size=8), st.integers(1, 3))
@UNHURRIED
def test_a_worse_checkpoint_never_takes_the_place_of_a_better_one(
    values: list[float], count: int
) -> None:
    options = KeepOptions(keep_best=count, monitor=["eval_loss"])
    before = by_order(decide(losses(*values), options))
    after = by_order(decide(losses(*values, max(values) + 1), options))
    for order, decision in before.items():
        if "best" in decision.keep and len(values) >= count:
            assert "best" in after[order].keep


@given(checkpoints, keep_options, st.sampled_from([0.0, 9.5, math.nan]))
@UNHURRIED
def test_a_new_checkpoint_removes_nothing_from_the_archive_before_it_is_archived(
    known: list[KnownCheckpoint], options: KeepOptions, loss: float
) -> None:
    archived = [replace(one, is_archived=True) for one in known]
    before = by_order(decide(archived, options))
    new = KnownCheckpoint("a3", 50, "/out", 2e9, {"eval_loss": loss}, number=6)
    after = by_order(decide([*archived, new], options))
    for order, decision in before.items():
        assert set(decision.keep) <= set(after[order].keep)
