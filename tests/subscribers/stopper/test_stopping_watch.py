"""What is made of a run's events: attempts, resumes, metrics that never come, budgets, restarts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lineside.bus.errors import AddressInUse
from lineside.bus.protocol.events import Event, Stream
from lineside.subscribers.stopper.memory import KEEP_SECONDS, Memory, MemoryFailed
from lineside.subscribers.stopper.reading import rule
from lineside.subscribers.stopper.watch import Watch
from tests.subscribers.stopper.script import Script, watch_of

PATIENT = {"monitor": "eval_loss", "patience": 3, "action": "stop"}


def test_a_resumed_run_counts_on_from_its_checkpoint() -> None:
    watch = watch_of(PATIENT)
    first = Script(watch)
    first.evaluate(3, 2, 2.5, save=True)
    first.evaluate(1)  # is forgotten: the checkpoint is older
    resumed = {"run": "run", "attempt": "a1", "step": 3}
    again = Script(watch, "a2", step=3, resumed_from=resumed)
    again.evaluate(2.5, 2.5)
    assert again.fired == [("stop", 5)]
    assert "no better than 2 of step 2" in again.firings[0].why


def test_one_resumed_from_where_it_would_have_stopped_stops_at_its_next_evaluation() -> None:
    watch = watch_of(PATIENT)
    first = Script(watch)
    first.evaluate(2, 2, 2, 2, save=True)
    assert first.fired == [("stop", 4)]
    resumed = {"run": "run", "attempt": "a1", "step": 4}
    again = Script(watch, "a2", start=first.events[-1].time + 1, step=4, resumed_from=resumed)
    again.evaluate(2)
    assert again.fired == [("stop", 5)]


def test_another_attempt_that_resumes_nothing_begins_anew() -> None:
    watch = watch_of(PATIENT)
    Script(watch).evaluate(2, 2, 2, save=True)
    again = Script(watch, "a2", resumed_from=None)
    again.evaluate(2, 2, 2)
    assert not again.firings
    foreign = Script(watch, "a3", step=9, resumed_from={"run": None, "attempt": None, "step": 9})
    foreign.evaluate(2, 2, 2)
    assert not foreign.firings


def test_a_copy_of_a_run_goes_on_from_what_it_was_copied_from() -> None:
    watch = watch_of(PATIENT)
    first = Script(watch)
    first.evaluate(2, 2, 2, save=True)
    first.stream = Stream("fork", "rank0", "b1")
    first.events.clear()
    first.tell("run_start", {"resumed_from": {"run": "run", "attempt": "a1", "step": 3}})
    first.tell("train_begin")
    first.tell("epoch_begin")
    first.evaluate(2)
    assert first.fired == [("stop", 4)]


def test_a_metric_that_never_comes_is_reported_once_with_those_that_did() -> None:
    script = Script(watch_of({"monitor": "eval_acc", "patience": 1}))
    script.evaluate(3, 2, 1)
    [firing] = script.firings
    assert (firing.action, firing.step) == ("alert", 2)
    assert firing.names == ("eval_loss",)
    assert firing.why.startswith("eval_acc did not come with evaluations")


def test_one_of_several_datasets_is_enough() -> None:
    script = Script(watch_of({"monitor": "eval_b_loss", "patience": 1, "action": "alert"}))
    for value in (3.0, 3.0):
        script.go()
        script.measure({"eval_a_loss": value})
        script.measure({"eval_b_loss": value})
    script.go()
    assert script.fired == [("alert", 2)]
    assert script.firings[0].why == "eval_b_loss was no better than 3 of step 1 once, and is 3"


def test_a_metric_of_logs_is_missed_after_a_few_of_them() -> None:
    script = Script(watch_of({"monitor": "rewards/score", "threshold": 1}))
    script.go(5, loss=1.0, learning_rate=0.1)
    assert script.fired == [("alert", 4)]
    assert script.firings[0].names == ("loss", "learning_rate")


def test_without_an_evaluation_the_end_says_so() -> None:
    script = Script(watch_of(PATIENT))
    script.go(3, loss=1.0)
    assert not script.firings
    script.tell("train_end")
    script.tell("run_end")
    assert [firing.why for firing in script.firings] == [
        "eval_loss did not come with evaluations, so the rule cannot hold: nothing came at all"
    ]


def test_a_nan_anywhere_is_seen_through_the_gradients_too() -> None:
    script = Script(watch_of({"not_finite": 2}))
    script.go(loss=1.0, grad_norm=math.nan)
    script.evaluate(1.0)
    script.go(loss=1.0, grad_norm=math.inf)
    assert script.fired == [("save_and_stop", 3)]
    assert script.firings[0].why == "not finite: grad_norm is inf"


def test_what_is_evaluated_is_not_taken_for_a_log_as_well() -> None:
    script = Script(watch_of({"not_finite": 2, "action": "alert"}))
    script.evaluate(math.nan)
    assert not script.firings
    script.evaluate(math.nan)
    assert script.fired == [("alert", 2)]


def test_budgets_count_steps_and_the_seconds_of_all_attempts() -> None:
    watch = watch_of({"max_steps": 5, "action": "evaluate"}, {"max_seconds": 55, "action": "stop"})
    first = Script(watch)
    first.go(3)
    resumed = {"run": "run", "attempt": "a1", "step": 3}
    again = Script(watch, "a2", start=1000.0, step=3, resumed_from=resumed)
    again.go(2)
    assert again.fired == [("evaluate", 5)]
    again.go(2)
    assert again.fired == [("evaluate", 5), ("stop", 6)]
    assert again.firings[1].why == "it has trained for 60 s, and 55 are allowed"


def test_a_rate_is_lowered_from_what_it_is_down_to_its_least() -> None:
    plateau = {"monitor": "eval_loss", "patience": 1, "action": "set_lr", "factor": 0.5}
    script = Script(watch_of(plateau | {"min_lr": 0.2}))
    script.go(learning_rate=1.0, loss=1.0)
    script.evaluate(1, 1)
    answers = Stream("run", "control", "a1")
    script.watch.take(answers, Event(0, 0.0, 0, "control_applied", 3, data={"to": 0.7}))
    script.evaluate(1, 1, 1)
    assert [firing.args for firing in script.firings] == [{"lr": 0.5}, {"lr": 0.35}, {"lr": 0.2}]


def test_without_a_rate_there_is_none_to_lower() -> None:
    plateau = {"monitor": "eval_loss", "patience": 1, "action": "set_lr", "factor": 0.5}
    script = Script(watch_of(plateau))
    script.evaluate(1, 1)
    [firing] = script.firings
    assert firing.action == "alert"
    assert firing.why.endswith("no learning_rate was logged to be lowered")


@pytest.mark.parametrize("end", ["train_end", "train_error", "run_end"])
def test_only_rank_0_counts_and_only_while_it_trains(end: str) -> None:
    watch = watch_of({"not_finite": 1}, {"max_seconds": 35})
    script = Script(watch)
    script.stream = Stream("run", "rank1", "a1")
    script.go(loss=math.nan)
    script.stream = Stream("run", "rank0", "a1")
    script.tell(end)
    script.evaluate(math.nan)  # of a script that goes on
    script.go(9)
    assert not script.firings
    again = Script(watch, "a2", start=1000.0)
    again.go(2)
    assert not again.firings
    again.go()
    assert again.firings[0].why == "it has trained for 40 s, and 35 are allowed"


def test_a_metric_without_the_prefix_counts_once_though_it_is_logged_and_evaluated() -> None:
    script = Script(watch_of({"monitor": "test_loss", "patience": 2, "mode": "min"}))
    script.evaluate(3, 2, 1, 1, name="test_loss")
    assert not script.firings
    script.evaluate(1, name="test_loss")
    assert script.fired == [("save_and_stop", 5)]


class Loop(Script):
    """A loop as ``docs/how-to/plain-loop.md`` has it, that does not say when steps end."""

    def __init__(self, *given: Mapping[str, Any]) -> None:
        self.watch, self.stream = watch_of(*given), Stream("run", "rank0", "a1")
        self.firings, self.events = [], []
        self.step, self._first, self._start = 0, 0, 0.0
        self.tell("run_start", {"name": "a run", "project": "tests", "source": "loop"})

    def go(self, steps: int = 1, **logs: float) -> None:
        for _ in range(steps):
            self.step += 1
            self.tell("log", {"logs": logs})


def test_a_loop_says_its_evaluations_by_logs_or_as_such() -> None:
    script = Loop({"monitor": "eval_loss", "patience": 1})
    script.go(2, eval_loss=1.0)
    assert script.fired == [("alert", 2)]
    assert script.firings[0].why.endswith("and is 1; a loop takes no commands")
    script = Loop({"monitor": "eval_loss", "patience": 1})
    for loss in (2.0, 1.0, 1.0):
        script.go(10, loss=1.0)
        script.tell("evaluate", {"metrics": {"eval_loss": loss}})
    assert script.fired == [("alert", 30)]
    assert "no better than 1 of step 20 once" in script.firings[0].why


def test_the_budgets_of_a_loop_are_looked_at_whenever_it_says_something() -> None:
    script = Loop({"max_steps": 3}, {"max_seconds": 45})
    script.go(6, loss=1.0)
    assert script.fired == [("alert", 3), ("alert", 5)]


def test_a_loop_misses_a_metric_as_a_trainer_does() -> None:
    script = Loop({"monitor": "eval_acc", "patience": 1}, {"monitor": "wer", "patience": 1})
    script.go(2, loss=1.0)
    script.tell("evaluate", {"metrics": {"eval_loss": 1.0}})
    assert not script.firings
    script.go(loss=1.0)
    assert sorted(firing.why for firing in script.firings) == [
        f"{name} did not come with logs or evaluations, so the rule cannot hold: "
        "there are loss, eval_loss"
        for name in ("eval_acc", "wer")
    ]


def test_a_rule_is_for_the_runs_it_names() -> None:
    for pattern, count in (("tests", 1), ("t*", 1), ("other", 0), ("test?", 0)):
        script = Script(watch_of({"max_steps": 1, "project": pattern}))
        script.go()
        assert len(script.firings) == count


def test_a_stopper_killed_at_any_event_comes_to_the_same(tmp_path: Path) -> None:
    given = [rule(PATIENT, "a test"), rule({"not_finite": 1, "action": "alert"}, "a test")]
    whole = Script(Watch(given, Memory()))
    whole.evaluate(3, 2, 2, save=True)
    whole.go(loss=math.nan)
    whole.evaluate(2, 2)
    expected = [(firing.id, firing.action) for firing in whole.firings]
    assert [action for _, action in expected] == ["alert", "stop"]
    for killed in range(len(whole.events)):
        path = tmp_path / f"{killed}.db"
        memory = Memory(path)
        watch, found = Watch(given, memory), []
        kept = max(0, killed - 3)
        for event in whole.events[:killed]:
            if event.seq == kept:
                watch.commit("journal", event.seq)
            found += watch.take(whole.stream, event)
        memory.close()
        memory = Memory(path)
        journal, offset = memory.position()
        assert (journal, offset) == (("journal", kept) if killed else (None, 0))
        again = Watch(given, memory)
        for event in whole.events[offset:]:
            found += again.take(whole.stream, event)
        memory.close()
        assert list(dict.fromkeys((firing.id, firing.action) for firing in found)) == expected


def test_memory_belongs_to_its_rules_and_to_one_process(tmp_path: Path) -> None:
    one, other = rule(PATIENT, "a test"), rule({"max_steps": 1}, "a test")
    memory = Memory.of(tmp_path, [one])
    memory.commit("journal", 7)
    with pytest.raises(AddressInUse, match="a stopper with the same rules runs on this home"):
        Memory.of(tmp_path, [one])
    Memory.of(tmp_path, [one, other]).close()
    memory.close()
    memory = Memory.of(tmp_path, [one])
    assert memory.position() == ("journal", 7)
    memory.close()


def test_memory_forgets_what_is_long_over(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "memory.db")
    for attempt, time in (("old", 0.0), ("new", KEEP_SECONDS)):
        memory.keep_course("run", attempt, {}, time)
        memory.keep_standing("run", attempt, 3, {})
    memory.forget_old(KEEP_SECONDS + 1)
    assert memory.course("run", "old") is memory.standing("run", "old", 3) is None
    assert memory.course("run", "new") == memory.standing("run", "new", 3) == {}
    memory.close()


def test_a_memory_that_is_no_file_of_ours_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(MemoryFailed, match="remove the file"):
        Memory(path)
