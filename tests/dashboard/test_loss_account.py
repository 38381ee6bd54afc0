from __future__ import annotations

import pytest

from lineside.dashboard.loss_account import CAUTION, CLEAR, LossSummary, hook_cost, summarize
from tests.dashboard.conftest import Harness


def summary_of(harness: Harness, run: str = "tiny-1") -> LossSummary:
    return summarize(harness.history.run(run), harness.history.streams(run))


def test_a_run_that_lost_nothing_is_clear_and_says_what_the_hooks_cost(harness: Harness) -> None:
    training = harness.train()
    summary = summary_of(harness)
    emitted = harness.feeder.next_seq(training.stream)
    assert summary.tone == CLEAR
    assert summary.headline == f"Nothing lost: all {emitted} events are recorded."
    assert "4.1 µs each" in summary.sentences[0]
    assert "240 hooks" in summary.sentences[0]
    stream = harness.history.streams("tiny-1")[0]
    assert (hook_cost(stream, harness.history.run("tiny-1").attempts) or "").startswith("4.1 µs · ")


def test_what_is_on_its_way_while_training_goes_on_is_no_loss(harness: Harness) -> None:
    training = harness.begin()
    now = training.train(harness.feeder, 1, 20)
    emitted = harness.feeder.next_seq(training.stream)
    training.heartbeat(harness.feeder, now, 20, emitted=emitted + 7)
    summary = summary_of(harness)
    assert summary.tone == CLEAR
    assert summary.headline == f"Nothing lost: {emitted + 1} events recorded, 7 on the way."


def test_what_did_not_come_though_the_run_has_ended_is_named_with_the_remedy(
    harness: Harness,
) -> None:
    training = harness.begin()
    now = training.train(harness.feeder, 1, 20)
    emitted = harness.feeder.next_seq(training.stream)
    ended = {"how": "exit", "error": None, "counters": {"emitted": emitted + 8}}
    harness.feeder.record(training.stream, "run_end", now, 20, ended)
    summary = summary_of(harness)
    assert summary.tone == CAUTION
    assert summary.headline == f"7 events of {emitted + 8} have not come yet."
    assert "`lineside ship`" in summary.sentences[0]


@pytest.mark.parametrize("dropped", [0, 3, 9])
def test_missing_events_are_counted_and_their_cause_is_told_apart(
    harness: Harness, dropped: int
) -> None:
    training = harness.begin()
    now = training.train(harness.feeder, 1, 20)
    harness.feeder.feed(training.stream, [], (harness.feeder.skip(training.stream, 9),))
    training.heartbeat(harness.feeder, now, 20, dropped=dropped)
    summary = summary_of(harness)
    assert summary.tone == CAUTION
    assert summary.headline.startswith("9 events of ")
    assert any("found the spool or its disk full" in text for text in summary.sentences) == bool(
        dropped
    )
    assert any("went missing on the way" in text for text in summary.sentences) == (dropped < 9)


def test_hooks_that_failed_make_a_complete_record_amber(harness: Harness) -> None:
    training = harness.begin()
    now = training.train(harness.feeder, 1, 20)
    training.heartbeat(harness.feeder, now, 20, hook_errors=2)
    summary = summary_of(harness)
    assert summary.tone == CAUTION
    assert "not everything went well" in summary.headline
    assert any(text.startswith("2 hooks failed inside Lineside") for text in summary.sentences)


def test_a_run_without_streams_is_not_called_complete(harness: Harness) -> None:
    harness.train()
    assert summarize(harness.history.run("tiny-1"), []).tone == CAUTION
