"""Rules act on a recorded run where they acted on the live one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import pytest
from sqlalchemy import Engine

from lineside.bus.client.reader import Batch
from lineside.bus.errors import RunNotFound
from lineside.store.history.history import History
from lineside.store.recording.writer import Writer
from lineside.subscribers.stopper.attempt_state import Trigger
from lineside.subscribers.stopper.backtest import backtest
from lineside.subscribers.stopper.rule_engine import RuleEngine
from lineside.subscribers.stopper.rule_parser import parse_rule
from lineside.subscribers.stopper.state_store import StateStore
from tests.subscribers.stopper.synthetic_run import SyntheticRun

RULES = [
    parse_rule({"name": name, **fields}, "a test")
    for name, fields in {
        "flat": {"monitor": "eval_loss", "patience": 3},
        "nan": {"not_finite": 1, "action": "alert"},
        "steps": {"max_steps": 7, "action": "stop"},
        "seconds": {"max_seconds": 75, "action": "alert"},
        "absent": {"monitor": "eval_f1", "threshold": 0.5},
        "plateau": {"monitor": "eval_loss", "patience": 2, "action": "set_lr", "factor": 0.5},
    }.items()
]


def record(engine: Engine, *scripts: SyntheticRun) -> None:
    batches = [
        Batch(offset, script.stream, tuple(script.events), ())
        for offset, script in enumerate(scripts, start=1)
    ]
    Writer(engine).apply("journal", batches)


def summarize(triggers: Iterable[Trigger]) -> list[tuple[str, str, str, int]]:
    actions = {(f.rule.name, f.action, f.stream.attempt, f.step) for f in triggers}
    return sorted(actions, key=lambda one: (one[2:], one[:2]))


def test_a_backtest_finds_the_triggers_of_the_live_stopper(
    engine: Engine, history: History
) -> None:
    rule_engine = RuleEngine(RULES, StateStore())
    first = SyntheticRun(rule_engine)
    first.train(loss=1.0, learning_rate=0.1)
    first.evaluate(2, 2, save=True)
    first.train(3, loss=1.0, grad_norm=math.nan)
    resumed = {"run": "run", "attempt": "a1", "step": 3}
    again = SyntheticRun(rule_engine, "a2", start=500.0, step=3, resumed_from=resumed)
    again.evaluate(2.5, 2.5, save=True)
    again.train(4)
    again.emit("train_end")
    record(engine, first, again)
    live = summarize(itertools.chain(first.triggers, again.triggers))
    assert summarize(backtest(history, "run", RULES)) == live
    assert ("flat", "save_and_stop", "a2", 5) in live
    assert ("steps", "stop", "a2", 7) in live


def test_a_rule_that_stops_acts_once_in_a_backtest(engine: Engine, history: History) -> None:
    rule_engine = RuleEngine([], StateStore())
    script = SyntheticRun(rule_engine)
    script.evaluate(*[2.0] * 200)
    record(engine, script)
    [trigger] = backtest(history, "run", RULES[:1])
    assert (trigger.step, trigger.action) == (4, "save_and_stop")


def test_an_unknown_run_is_an_error(engine: Engine, history: History) -> None:
    with pytest.raises(RunNotFound):
        backtest(history, "nobody", RULES)
