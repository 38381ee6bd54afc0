"""Rules tried on a run that is recorded act where they acted while it trained."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import pytest
from sqlalchemy import Engine

from lineside.bus.client.reader import Batch
from lineside.bus.errors import RunNotFound
from lineside.store.history.reads import History
from lineside.store.recording.writes import Writer
from lineside.subscribers.stopper.backtest import backtest
from lineside.subscribers.stopper.course import Firing
from lineside.subscribers.stopper.memory import Memory
from lineside.subscribers.stopper.reading import rule
from lineside.subscribers.stopper.watch import Watch
from tests.subscribers.stopper.script import Script

RULES = [
    rule({"name": name, **fields}, "a test")
    for name, fields in {
        "flat": {"monitor": "eval_loss", "patience": 3},
        "nan": {"not_finite": 1, "action": "alert"},
        "steps": {"max_steps": 7, "action": "stop"},
        "seconds": {"max_seconds": 75, "action": "alert"},
        "absent": {"monitor": "eval_f1", "threshold": 0.5},
        "plateau": {"monitor": "eval_loss", "patience": 2, "action": "set_lr", "factor": 0.5},
    }.items()
]


def record(engine: Engine, *scripts: Script) -> None:
    batches = [
        Batch(offset, script.stream, tuple(script.events), ())
        for offset, script in enumerate(scripts, start=1)
    ]
    Writer(engine).apply("journal", batches)


def said(firings: Iterable[Firing]) -> list[tuple[str, str, str, int]]:
    told = {(f.rule.name, f.action, f.stream.attempt, f.step) for f in firings}
    return sorted(told, key=lambda one: (one[2:], one[:2]))


def test_it_finds_what_was_found_live(engine: Engine, history: History) -> None:
    watch = Watch(RULES, Memory())
    first = Script(watch)
    first.go(loss=1.0, learning_rate=0.1)
    first.evaluate(2, 2, save=True)
    first.go(3, loss=1.0, grad_norm=math.nan)
    resumed = {"run": "run", "attempt": "a1", "step": 3}
    again = Script(watch, "a2", start=500.0, step=3, resumed_from=resumed)
    again.evaluate(2.5, 2.5, save=True)
    again.go(4)
    again.tell("train_end")
    record(engine, first, again)
    live = said(itertools.chain(first.firings, again.firings))
    assert said(backtest(history, "run", RULES)) == live
    assert ("flat", "save_and_stop", "a2", 5) in live
    assert ("steps", "stop", "a2", 7) in live


def test_of_a_rule_that_stops_only_the_first_time_counts(engine: Engine, history: History) -> None:
    watch = Watch([], Memory())
    script = Script(watch)
    script.evaluate(*[2.0] * 200)
    record(engine, script)
    [firing] = backtest(history, "run", RULES[:1])
    assert (firing.step, firing.action) == (4, "save_and_stop")


def test_a_run_that_is_none_says_so(engine: Engine, history: History) -> None:
    with pytest.raises(RunNotFound):
        backtest(history, "nobody", RULES)
