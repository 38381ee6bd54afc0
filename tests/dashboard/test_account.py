from __future__ import annotations

import pytest

from lineside.dashboard.account import CAUTION, CLEAR, Verdict, cost, verdict
from tests.dashboard.conftest import House


def judged(house: House, run: str = "tiny-1") -> Verdict:
    return verdict(house.history.run(run), house.history.streams(run))


def test_a_run_that_lost_nothing_is_clear_and_says_what_the_hooks_cost(house: House) -> None:
    training = house.train()
    said = judged(house)
    emitted = house.feeder.next_seq(training.stream)
    assert said.tone == CLEAR
    assert said.headline == f"Nothing lost: all {emitted} events are recorded."
    assert "4.1 µs each" in said.sentences[0]
    assert "240 hooks" in said.sentences[0]
    stream = house.history.streams("tiny-1")[0]
    assert (cost(stream, house.history.run("tiny-1").attempts) or "").startswith("4.1 µs · ")


def test_what_is_on_its_way_while_training_goes_on_is_no_loss(house: House) -> None:
    training = house.begin()
    now = training.train(house.feeder, 1, 20)
    emitted = house.feeder.next_seq(training.stream)
    training.heartbeat(house.feeder, now, 20, emitted=emitted + 7)
    said = judged(house)
    assert said.tone == CLEAR
    assert said.headline == f"Nothing lost: {emitted + 1} events recorded, 7 on the way."


def test_what_did_not_come_though_the_run_has_ended_is_named_with_the_remedy(
    house: House,
) -> None:
    training = house.begin()
    now = training.train(house.feeder, 1, 20)
    emitted = house.feeder.next_seq(training.stream)
    ended = {"how": "exit", "error": None, "counters": {"emitted": emitted + 8}}
    house.feeder.say(training.stream, "run_end", now, 20, ended)
    said = judged(house)
    assert said.tone == CAUTION
    assert said.headline == f"7 events of {emitted + 8} have not come yet."
    assert "`lineside ship`" in said.sentences[0]


@pytest.mark.parametrize("dropped", [0, 3, 9])
def test_missing_events_are_counted_and_their_cause_is_told_apart(
    house: House, dropped: int
) -> None:
    training = house.begin()
    now = training.train(house.feeder, 1, 20)
    house.feeder.feed(training.stream, [], (house.feeder.skip(training.stream, 9),))
    training.heartbeat(house.feeder, now, 20, dropped=dropped)
    said = judged(house)
    assert said.tone == CAUTION
    assert said.headline.startswith("9 events of ")
    assert any("found the spool or its disk full" in text for text in said.sentences) == bool(
        dropped
    )
    assert any("went missing on the way" in text for text in said.sentences) == (dropped < 9)


def test_hooks_that_failed_make_a_complete_record_amber(house: House) -> None:
    training = house.begin()
    now = training.train(house.feeder, 1, 20)
    training.heartbeat(house.feeder, now, 20, hook_errors=2)
    said = judged(house)
    assert said.tone == CAUTION
    assert "not everything went well" in said.headline
    assert any(text.startswith("2 hooks failed inside Lineside") for text in said.sentences)


def test_a_run_without_streams_is_not_called_complete(house: House) -> None:
    house.train()
    assert verdict(house.history.run("tiny-1"), []).tone == CAUTION
