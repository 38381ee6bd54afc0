"""Attempts, resumes, missing metrics, budgets and restarts, by the events of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lineside.bus.errors import AddressInUse
from lineside.bus.protocol.events import Event, Stream
from lineside.subscribers.state.state_file import StateFileError
from lineside.subscribers.stopper.rule_engine import RuleEngine
from lineside.subscribers.stopper.rule_parser import parse_rule
from lineside.subscribers.stopper.state_store import RETENTION_SECONDS, StateStore
from tests.subscribers.stopper.synthetic_run import SyntheticRun, make_rule_engine

PATIENT = {"monitor": "eval_loss", "patience": 3, "action": "stop"}


def test_a_resumed_run_keeps_the_counts_of_its_checkpoint() -> None:
    rule_engine = make_rule_engine(PATIENT)
    first = SyntheticRun(rule_engine)
    first.evaluate(3, 2, 2.5, save=True)
    first.evaluate(1)  # does not count: the checkpoint is older
    resumed = {"run": "run", "attempt": "a1", "step": 3}
    again = SyntheticRun(rule_engine, "a2", step=3, resumed_from=resumed)
    again.evaluate(2.5, 2.5)
    assert again.triggered == [("stop", 5)]
    assert "no better than 2 of step 2" in again.triggers[0].reason


def test_a_run_resumed_where_a_rule_holds_stops_at_its_next_evaluation() -> None:
    rule_engine = make_rule_engine(PATIENT)
    first = SyntheticRun(rule_engine)
    first.evaluate(2, 2, 2, 2, save=True)
    assert first.triggered == [("stop", 4)]
    resumed = {"run": "run", "attempt": "a1", "step": 4}
    again = SyntheticRun(
        rule_engine, "a2", start=first.events[-1].time + 1, step=4, resumed_from=resumed
    )
    again.evaluate(2)
    assert again.triggered == [("stop", 5)]


def test_an_attempt_that_resumes_nothing_starts_from_zero() -> None:
    rule_engine = make_rule_engine(PATIENT)
    SyntheticRun(rule_engine).evaluate(2, 2, 2, save=True)
    again = SyntheticRun(rule_engine, "a2", resumed_from=None)
    again.evaluate(2, 2, 2)
    assert not again.triggers
    foreign = SyntheticRun(
        rule_engine, "a3", step=9, resumed_from={"run": None, "attempt": None, "step": 9}
    )
    foreign.evaluate(2, 2, 2)
    assert not foreign.triggers


def test_a_run_that_resumes_another_run_keeps_its_counts() -> None:
    rule_engine = make_rule_engine(PATIENT)
    first = SyntheticRun(rule_engine)
    first.evaluate(2, 2, 2, save=True)
    first.stream = Stream("fork", "rank0", "b1")
    first.events.clear()
    first.emit("run_start", {"resumed_from": {"run": "run", "attempt": "a1", "step": 3}})
    first.emit("train_begin")
    first.emit("epoch_begin")
    first.evaluate(2)
    assert first.triggered == [("stop", 4)]


def test_a_missing_metric_is_reported_once_with_the_metrics_that_exist() -> None:
    script = SyntheticRun(make_rule_engine({"monitor": "eval_acc", "patience": 1}))
    script.evaluate(3, 2, 1)
    [trigger] = script.triggers
    assert (trigger.action, trigger.step) == ("alert", 2)
    assert trigger.names == ("eval_loss",)
    assert trigger.reason.startswith("eval_acc did not come with logs or evaluations")


def test_a_metric_of_one_of_several_datasets_is_not_missing() -> None:
    script = SyntheticRun(
        make_rule_engine({"monitor": "eval_b_loss", "patience": 1, "action": "alert"})
    )
    for value in (3.0, 3.0):
        script.train()
        script.log_evaluation({"eval_a_loss": value})
        script.log_evaluation({"eval_b_loss": value})
    script.train()
    assert script.triggered == [("alert", 2)]
    assert script.triggers[0].reason == "eval_b_loss was no better than 3 of step 1 once, and is 3"


def test_an_evaluation_metric_that_is_only_logged_counts() -> None:
    script = SyntheticRun(make_rule_engine({"monitor": "eval_reward", "patience": 2}))
    for value in (1.0, 2.0, 1.5, 1.5):
        script.train(loss=1.0)
        script.emit("log", {"logs": {"eval_loss": 3.0, "eval_reward": value}})
        script.emit("evaluate", {"metrics": {"eval_loss": 3.0}})
    assert script.triggered == [("save_and_stop", 4)]


def test_rules_take_the_value_that_the_chart_shows() -> None:
    script = SyntheticRun(make_rule_engine(PATIENT))
    for value in (0.691, 0.6909, 0.6908, 0.6907):
        script.train()
        script.emit("log", {"logs": {"eval_loss": 0.69}})
        script.emit("evaluate", {"metrics": {"eval_loss": value}})
    assert script.triggered == [("stop", 4)]


def test_evaluations_of_several_datasets_at_one_step_are_one_round() -> None:
    rule = {"monitor": "eval_b_loss", "threshold": 1, "start_after": "2 evaluations"}
    script = SyntheticRun(make_rule_engine(rule))
    for _ in range(3):
        script.train()
        script.log_evaluation({"eval_a_loss": 1.0})
        script.log_evaluation({"eval_b_loss": 1.0})
    assert script.triggered == [("save_and_stop", 3)]


def test_a_second_evaluation_of_a_dataset_at_one_step_is_another_round() -> None:
    rule = {"monitor": "eval_loss", "threshold": 1, "start_after": "2 evaluations"}
    script = SyntheticRun(make_rule_engine(rule))
    script.train()
    for _ in range(2):
        script.log_evaluation({"eval_loss": 1.0})
    assert not script.triggers
    script.log_evaluation({"eval_loss": 1.0})
    assert script.triggered == [("save_and_stop", 1)]


def test_a_metric_of_logs_is_missing_after_three_logs() -> None:
    script = SyntheticRun(make_rule_engine({"monitor": "rewards/score", "threshold": 1}))
    script.train(5, loss=1.0, learning_rate=0.1)
    assert script.triggered == [("alert", 4)]
    assert script.triggers[0].names == ("loss", "learning_rate")


def test_a_training_without_an_evaluation_reports_the_metric_at_its_end() -> None:
    script = SyntheticRun(make_rule_engine(PATIENT))
    script.train(3, loss=1.0)
    assert not script.triggers
    script.emit("train_end")
    script.emit("run_end")
    assert [trigger.reason for trigger in script.triggers] == [
        "eval_loss did not come with logs or evaluations, so the rule cannot hold: "
        "no such metric came"
    ]


def test_not_finite_looks_at_every_metric_and_at_the_gradients() -> None:
    script = SyntheticRun(make_rule_engine({"not_finite": 2}))
    script.train(loss=1.0, grad_norm=math.nan)
    script.evaluate(1.0)
    script.train(loss=1.0, grad_norm=math.inf)
    assert script.triggered == [("save_and_stop", 3)]
    assert script.triggers[0].reason == "not finite: grad_norm is inf"


def test_evaluation_metrics_that_are_logged_too_count_once() -> None:
    script = SyntheticRun(make_rule_engine({"not_finite": 2, "action": "alert"}))
    script.evaluate(math.nan)
    assert not script.triggers
    script.evaluate(math.nan)
    assert script.triggered == [("alert", 2)]


def test_budgets_count_steps_and_the_seconds_of_all_attempts() -> None:
    rule_engine = make_rule_engine(
        {"max_steps": 5, "action": "evaluate"}, {"max_seconds": 55, "action": "stop"}
    )
    first = SyntheticRun(rule_engine)
    first.train(3)
    resumed = {"run": "run", "attempt": "a1", "step": 3}
    again = SyntheticRun(rule_engine, "a2", start=1000.0, step=3, resumed_from=resumed)
    again.train(2)
    assert again.triggered == [("evaluate", 5)]
    again.train(2)
    assert again.triggered == [("evaluate", 5), ("stop", 6)]
    assert again.triggers[1].reason == "it has trained for 60 s, and 55 are allowed"


def test_the_learning_rate_is_lowered_down_to_its_minimum() -> None:
    plateau = {"monitor": "eval_loss", "patience": 1, "action": "set_lr", "factor": 0.5}
    script = SyntheticRun(make_rule_engine(plateau | {"min_lr": 0.2}))
    script.train(learning_rate=1.0, loss=1.0)
    script.evaluate(1, 1)
    answers = Stream("run", "control", "a1")
    script.rule_engine.handle(answers, Event(0, 0.0, 0, "control_applied", 3, data={"to": 0.7}))
    script.evaluate(1, 1, 1)
    assert [trigger.args for trigger in script.triggers] == [{"lr": 0.5}, {"lr": 0.35}, {"lr": 0.2}]


def test_a_learning_rate_that_was_not_logged_causes_an_alert() -> None:
    plateau = {"monitor": "eval_loss", "patience": 1, "action": "set_lr", "factor": 0.5}
    script = SyntheticRun(make_rule_engine(plateau))
    script.evaluate(1, 1)
    [trigger] = script.triggers
    assert trigger.action == "alert"
    assert trigger.reason.endswith("no learning_rate was logged to be lowered")


@pytest.mark.parametrize("end", ["train_end", "train_error", "run_end"])
def test_only_rank_0_counts_and_only_while_it_trains(end: str) -> None:
    rule_engine = make_rule_engine({"not_finite": 1}, {"max_seconds": 35})
    script = SyntheticRun(rule_engine)
    script.stream = Stream("run", "rank1", "a1")
    script.train(loss=math.nan)
    script.stream = Stream("run", "rank0", "a1")
    script.emit(end)
    script.evaluate(math.nan)  # the script continues
    script.train(9)
    assert not script.triggers
    again = SyntheticRun(rule_engine, "a2", start=1000.0)
    again.train(2)
    assert not again.triggers
    again.train()
    assert again.triggers[0].reason == "it has trained for 40 s, and 35 are allowed"


def test_a_metric_without_the_prefix_counts_once_though_it_is_logged_and_evaluated() -> None:
    script = SyntheticRun(make_rule_engine({"monitor": "test_loss", "patience": 2, "mode": "min"}))
    script.evaluate(3, 2, 1, 1, name="test_loss")
    assert not script.triggers
    script.evaluate(1, name="test_loss")
    assert script.triggered == [("save_and_stop", 5)]


class Loop(SyntheticRun):
    """A loop as in docs/how-to/plain-loop.md, which publishes no step ends."""

    def __init__(self, *given: Mapping[str, Any]) -> None:
        self.rule_engine, self.stream = make_rule_engine(*given), Stream("run", "rank0", "a1")
        self.triggers, self.events = [], []
        self.step, self._first, self._start = 0, 0, 0.0
        self.emit("run_start", {"name": "a run", "project": "tests", "source": "loop"})

    def train(self, steps: int = 1, **logs: float) -> None:
        for _ in range(steps):
            self.step += 1
            self.emit("log", {"logs": logs})


def test_a_loop_may_publish_evaluations_as_logs_or_as_evaluations() -> None:
    script = Loop({"monitor": "eval_loss", "patience": 1})
    script.train(2, eval_loss=1.0)
    assert script.triggered == [("alert", 2)]
    assert script.triggers[0].reason.endswith("and is 1; a loop takes no commands")
    script = Loop({"monitor": "eval_loss", "patience": 1})
    for loss in (2.0, 1.0, 1.0):
        script.train(10, loss=1.0)
        script.emit("evaluate", {"metrics": {"eval_loss": loss}})
    assert script.triggered == [("alert", 30)]
    assert "no better than 1 of step 20 once" in script.triggers[0].reason


def test_the_budgets_of_a_loop_are_checked_at_each_of_its_events() -> None:
    script = Loop({"max_steps": 3}, {"max_seconds": 45})
    script.train(6, loss=1.0)
    assert script.triggered == [("alert", 3), ("alert", 5)]


def test_a_missing_metric_of_a_loop_is_reported_too() -> None:
    script = Loop({"monitor": "eval_acc", "patience": 1}, {"monitor": "wer", "patience": 1})
    script.train(2, loss=1.0)
    script.emit("evaluate", {"metrics": {"eval_loss": 1.0}})
    assert not script.triggers
    script.train(loss=1.0)
    assert sorted(trigger.reason for trigger in script.triggers) == [
        f"{name} did not come with logs or evaluations, so the rule cannot hold: "
        "there are loss, eval_loss"
        for name in ("eval_acc", "wer")
    ]


def test_a_rule_applies_to_the_runs_that_fit_its_patterns() -> None:
    for pattern, count in (("tests", 1), ("t*", 1), ("other", 0), ("test?", 0)):
        script = SyntheticRun(make_rule_engine({"max_steps": 1, "project": pattern}))
        script.train()
        assert len(script.triggers) == count


def test_a_stopper_killed_at_any_event_finds_the_same_triggers(tmp_path: Path) -> None:
    given = [
        parse_rule(PATIENT, "a test"),
        parse_rule({"not_finite": 1, "action": "alert"}, "a test"),
    ]
    whole = SyntheticRun(RuleEngine(given, StateStore()))
    whole.evaluate(3, 2, 2, save=True)
    whole.train(loss=math.nan)
    whole.evaluate(2, 2)
    expected = [(trigger.id, trigger.action) for trigger in whole.triggers]
    assert [action for _, action in expected] == ["alert", "stop"]
    for killed in range(len(whole.events)):
        path = tmp_path / f"{killed}.db"
        state_store = StateStore(path)
        rule_engine, found = RuleEngine(given, state_store), []
        kept = max(0, killed - 3)
        for event in whole.events[:killed]:
            if event.seq == kept:
                rule_engine.commit("journal", event.seq)
            found += rule_engine.handle(whole.stream, event)
        state_store.close()
        state_store = StateStore(path)
        journal, offset = state_store.position()
        assert (journal, offset) == (("journal", kept) if killed else (None, 0))
        again = RuleEngine(given, state_store)
        for event in whole.events[offset:]:
            found += again.handle(whole.stream, event)
        state_store.close()
        assert list(dict.fromkeys((trigger.id, trigger.action) for trigger in found)) == expected


def test_a_state_file_belongs_to_its_rules_and_to_one_process(tmp_path: Path) -> None:
    one, other = parse_rule(PATIENT, "a test"), parse_rule({"max_steps": 1}, "a test")
    state_store = StateStore.for_rules(tmp_path, [one])
    state_store.commit("journal", 7)
    with pytest.raises(AddressInUse, match="a stopper with the same rules runs on this home"):
        StateStore.for_rules(tmp_path, [one])
    StateStore.for_rules(tmp_path, [one, other]).close()
    state_store.close()
    state_store = StateStore.for_rules(tmp_path, [one])
    assert state_store.position() == ("journal", 7)
    state_store.close()


def test_old_attempts_are_pruned_from_the_state_file(tmp_path: Path) -> None:
    state_store = StateStore(tmp_path / "memory.db")
    for attempt, time in (("old", 0.0), ("new", RETENTION_SECONDS)):
        state_store.save_attempt_state("run", attempt, {}, time)
        state_store.save_snapshot("run", attempt, 3, {})
    state_store.prune(RETENTION_SECONDS + 1)
    assert state_store.attempt_state("run", "old") is state_store.snapshot("run", "old", 3) is None
    assert state_store.attempt_state("run", "new") == state_store.snapshot("run", "new", 3) == {}
    state_store.close()


def test_a_damaged_state_file_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StateFileError, match="remove the file"):
        StateStore(path)
