from __future__ import annotations

from dataclasses import replace

import pytest

from lineside.dashboard.loss_account import (
    CAUTION,
    CLEAR,
    LossSummary,
    hook_cost,
    on_its_way,
    summarize,
)
from lineside.dashboard.transit import RecorderLag, Transit, add_spool
from tests.dashboard.conftest import Harness


def summary_of(harness: Harness, run: str = "tiny-1") -> LossSummary:
    return summarize(harness.history.run(run), harness.history.streams(run))


def test_a_complete_run_is_clear_and_shows_the_cost_of_hooks(harness: Harness) -> None:
    training = harness.train()
    summary = summary_of(harness)
    emitted = harness.feeder.next_seq(training.stream)
    assert summary.tone == CLEAR
    assert summary.headline == f"Nothing lost: all {emitted} events are recorded."
    assert "4.1 µs each" in summary.sentences[0]
    assert "240 hooks" in summary.sentences[0]
    stream = harness.history.streams("tiny-1")[0]
    assert str(hook_cost([stream], harness.history.run("tiny-1").attempts)).startswith("4.1 µs · ")


def test_events_on_the_way_during_training_are_no_loss(harness: Harness) -> None:
    training = harness.begin()
    now = training.train(harness.feeder, 1, 20)
    emitted = harness.feeder.next_seq(training.stream)
    training.heartbeat(harness.feeder, now, 20, emitted=emitted + 7)
    summary = summary_of(harness)
    assert summary.tone == CLEAR
    assert summary.headline == f"Nothing lost: {emitted + 1} events recorded, 7 on the way."


def test_events_missing_after_the_end_are_reported_with_a_remedy(
    harness: Harness,
) -> None:
    training = harness.begin()
    now = training.train(harness.feeder, 1, 20)
    emitted = harness.feeder.next_seq(training.stream)
    ended = {"how": "exit", "error": None, "counters": {"emitted": emitted + 8}}
    harness.feeder.record(training.stream, "run_end", now, 20, ended)
    summary = summary_of(harness)
    assert summary.tone == CAUTION
    assert summary.headline == f"7 events of {emitted + 8} have not arrived yet."
    assert "`lineside ship`" in summary.sentences[0]


def test_values_beyond_the_limit_of_names_are_counted(harness: Harness) -> None:
    harness.train()
    streams = [replace(one, left_out=3) for one in harness.history.streams("tiny-1")]
    summary = summarize(harness.history.run("tiny-1"), streams)
    assert summary.tone == CAUTION
    assert any("3 logged values have no chart" in sentence for sentence in summary.sentences)


@pytest.mark.parametrize("dropped", [0, 3, 9])
@pytest.mark.parametrize("expired", [0, 2])
def test_missing_events_are_counted_by_cause(harness: Harness, dropped: int, expired: int) -> None:
    training = harness.begin()
    now = training.train(harness.feeder, 1, 20)
    reported = replace(harness.feeder.skip(training.stream, 9), is_reported=True)
    harness.feeder.feed(training.stream, [], (reported,))
    harness.feeder.skip(training.stream, expired)
    harness.feeder.record(training.stream, "epoch_end", now, 20, None)
    training.heartbeat(harness.feeder, now, 20, dropped=dropped)
    summary = summary_of(harness)
    assert summary.tone == CAUTION
    assert summary.headline.startswith(f"{9 + expired} events of ")
    causes = {
        "dropped because the spool or its disk was full": dropped,
        "reported missing by their producer": 9 - dropped,
        "lost from the journal": expired,
    }
    for cause, count in causes.items():
        found = [text for text in summary.sentences if f"events {cause}" in text]
        assert [text.split()[0] for text in found] == ([str(count)] if count else [])


def test_one_missing_event_is_reported_in_the_singular(harness: Harness) -> None:
    training = harness.begin()
    harness.feeder.feed(training.stream, [], (harness.feeder.skip(training.stream, 1),))
    emitted = harness.feeder.next_seq(training.stream)
    assert summary_of(harness).headline == f"1 event of {emitted} is missing."


def test_failed_hooks_are_a_caution_although_all_events_are_recorded(harness: Harness) -> None:
    training = harness.begin()
    now = training.train(harness.feeder, 1, 20)
    training.heartbeat(harness.feeder, now, 20, hook_errors=2)
    summary = summary_of(harness)
    assert summary.tone == CAUTION
    assert summary.headline.endswith("recorded, with errors.")
    assert any(text.startswith("2 hooks failed inside Lineside") for text in summary.sentences)


def test_a_run_without_streams_is_a_caution(harness: Harness) -> None:
    harness.train()
    assert summarize(harness.history.run("tiny-1"), []).tone == CAUTION


def test_events_in_the_spool_of_this_machine_are_counted(harness: Harness) -> None:
    training = harness.train()
    emitted = harness.feeder.next_seq(training.stream)
    later = training.stream._replace(attempt="t2")
    spool = {training.stream: (emitted, 20), later: (0, 100)}
    transit = Transit(RecorderLag(None, problem="no broker answers."), spool)
    run, streams = harness.history.run("tiny-1"), harness.history.streams("tiny-1")
    accounts = add_spool(streams, transit)
    assert [(a.attempt, a.emitted, a.lag) for a in accounts if a.producer == "rank0"] == [
        (training.stream.attempt, emitted + 20, 20),
        ("t2", 100, 100),
    ]
    summary = summarize(run, accounts, transit)
    assert summary.tone == CAUTION
    assert summary.headline.startswith("120 events of ")
    assert summary.sentences[0].startswith("120 events wait in the spool of this machine.")
    assert on_its_way(run, 120, transit) == "120, 120 of them in the spool of this machine"


def test_events_of_a_recorder_that_lags_are_reported(harness: Harness) -> None:
    training = harness.begin()
    training.train(harness.feeder, 1, 20)
    emitted = harness.feeder.next_seq(training.stream)
    transit = Transit(RecorderLag(250_000, 58.0))
    run, streams = harness.history.run("tiny-1"), harness.history.streams("tiny-1")
    summary = summarize(run, streams, transit)
    assert summary.tone == CAUTION
    assert summary.headline == (
        f"{emitted} events recorded, and the recorder is 58s and 250,000 events behind."
    )
    assert summary.sentences[0].startswith("The recorder is 58s and 250,000 events behind")


def test_events_in_the_spool_of_a_training_that_sends_them_are_no_caution(harness: Harness) -> None:
    training = harness.begin()
    training.train(harness.feeder, 1, 20)
    emitted = harness.feeder.next_seq(training.stream)
    transit = Transit(RecorderLag(), {training.stream: (emitted, 7)})
    accounts = add_spool(harness.history.streams("tiny-1"), transit)
    summary = summarize(harness.history.run("tiny-1"), accounts, transit)
    assert (summary.tone, summary.sentences) == (CLEAR, [])
    assert summary.headline == f"Nothing lost: {emitted} events recorded, 7 on the way."


@pytest.mark.parametrize(
    ("recorder", "silent", "why"),
    [
        (RecorderLag(None, problem="no broker answers at ipc://x."), False, "no broker answers"),
        (RecorderLag(), True, "no message has come since"),
    ],
)
def test_what_is_not_known_of_a_training_is_stated_to_be_not_known(
    harness: Harness, recorder: RecorderLag, silent: bool, why: str
) -> None:
    training = harness.begin()
    training.train(harness.feeder, 1, 20)
    run = harness.history.run("tiny-1")
    if silent:
        run = replace(run, status="disconnected")
    streams = harness.history.streams("tiny-1")
    known = summarize(run, streams, Transit(RecorderLag(), {training.stream: (100, 0)}))
    assert "not known" not in known.headline
    summary = summarize(run, streams, Transit(recorder))
    since = f"after {run.updated_at:%H:%M:%S} UTC"
    assert summary.tone == CAUTION
    assert f"how many came {since} is not known" in summary.headline
    assert why in summary.sentences[0]
    assert on_its_way(run, 0, Transit(recorder)) == f"not known {since}"


def test_a_run_that_ended_is_known_without_a_broker(harness: Harness) -> None:
    harness.train()
    run, streams = harness.history.run("tiny-1"), harness.history.streams("tiny-1")
    transit = Transit(RecorderLag(None, problem="no broker answers."))
    assert summarize(run, streams, transit).tone == CLEAR
    assert on_its_way(run, 0, transit) == "0"
