"""Runs that must and must not raise an alert: their ends, speed, GPUs, checkpoints, subscribers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from lineside.store.history.checkpoints import Checkpoint
from lineside.store.history.curves.new_points import NewPoint
from lineside.store.history.records import EventRow, Failure, LossAccount
from lineside.subscribers.watchdog.observation import RunObservation
from lineside.subscribers.watchdog.rules.checkpoints import CheckpointOverdue
from lineside.subscribers.watchdog.rules.gpu import GpuIdle
from lineside.subscribers.watchdog.rules.lineside import SubscriberErrors
from lineside.subscribers.watchdog.rules.rule import RunRule
from lineside.subscribers.watchdog.rules.speed import DataLoaderBound, ThroughputFell
from lineside.subscribers.watchdog.rules.status import Disconnected, Failed, Lost, Stalled
from lineside.subscribers.watchdog.run_details import details
from lineside.subscribers.watchdog.series import StepTimes
from tests.subscribers.watchdog.observing import NOW, at, findings, observed, run, samples

STATUS_RULES = (Lost(), Failed(), Stalled(), Disconnected())


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("running", []),
        ("finished", []),
        ("stopped", []),
        ("interrupted", []),
        ("lost", ["lost"]),
        ("failed", ["failed"]),
        ("killed", ["failed"]),
        ("stalled", ["stalled"]),
        ("disconnected", ["disconnected"]),
    ],
)
def test_each_status_that_needs_a_person_has_one_rule(status: str, expected: list[str]) -> None:
    assert [rule.name for rule in STATUS_RULES if findings(rule, observed(status))] == expected


def test_a_training_whose_events_are_on_their_way_is_not_judged_to_be_stalled() -> None:
    on_their_way = run("stalled", loss_account=LossAccount(1000, 500, 0, 500))
    assert Stalled().judge(RunObservation(on_their_way, NOW)) is None


def test_the_alert_about_an_end_has_the_reason_and_closes_a_day_after_it() -> None:
    failed = run("failed", None, reason="ValueError: bad", ended_at=at(-100))
    [found] = findings(Failed(), RunObservation(failed, NOW))
    assert found.summary == "failed at step 1,000: ValueError: bad"
    assert found.action == "lineside show run"
    assert findings(Failed(), RunObservation(failed, NOW + 86_400)) == []


def test_the_details_of_a_run_are_what_a_person_looks_for_first() -> None:
    failure = Failure("rank0", "ValueError", "bad", "\n".join(f"line {n}" for n in range(100)))
    metrics = {f"other {n}": 0.0 for n in range(20)} | {"loss": math.nan, "eval_loss": 2.0}
    observation = RunObservation(
        run("failed", None, error=failure, metrics=metrics),
        NOW,
        {"process": {"host": "node7"}},
        exit={"exit_code": None, "signal": "SIGKILL", "out_of_memory": True},
    )
    found = details(observation)
    assert found["step"], found["host"] == (1000, "node7")
    assert list(found["metrics"].items())[:3] == [
        ("loss", "nan"),
        ("eval_loss", 2.0),
        ("other 0", 0.0),
    ]
    assert len(found["metrics"]) == 10
    assert found["exit"] == "signal SIGKILL, out of memory"
    assert found["output"].splitlines()[-1] == "line 99"
    assert len(found["output"].splitlines()) == 12


def step_times(
    seconds: Iterable[float], wait: float = 0.01, *, interrupted: bool = False
) -> StepTimes:
    """Steps that take so many seconds, one after the other, each with a wait after it."""
    times = StepTimes()
    clock, step = NOW - 36_000, 0
    for length in seconds:
        clock, step = clock + length + wait, step + 1
        compute, waited = NewPoint(step, clock - wait, length), NewPoint(step, clock, wait)
        times.add([compute], [waited], int(interrupted))
    return times


def minutes(seconds: float, count: int) -> list[float]:
    return [seconds] * int(count * 60 / seconds)


def test_a_step_that_takes_twice_as_long_is_a_fallen_throughput() -> None:
    times = step_times([*minutes(0.5, 12), *minutes(1.1, 6)])
    [found] = findings(ThroughputFell(), observed(step_times=times))
    assert found.summary == "a step takes 1.11 s, before 510 ms: 46 % of the earlier speed"


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("steady", minutes(0.5, 20)),
        ("a slow first step: compilation", [240.0, *minutes(0.5, 20)]),
        ("a slow first minute", [*[10.0] * 5, *minutes(0.5, 20)]),
        ("a long evaluation each fifty steps", ([0.5] * 50 + [300.0]) * 20),
        ("a pause", [*minutes(0.5, 10), 7200.0, *minutes(0.5, 5)]),
        ("a pause just now", [*minutes(0.5, 10), 7200.0, 0.5]),
        ("batches of any length", [0.2, 1.5, 0.4, 3.0] * 400),
        ("a few slow steps", [*minutes(0.5, 10), *[4.0] * 10, *minutes(0.5, 5)]),
        ("a little slower", [*minutes(0.5, 12), *minutes(0.8, 6)]),
        ("faster", [*minutes(1.0, 12), *minutes(0.2, 6)]),
        ("slow steps", [90.0] * 40),
        ("a short run", [*minutes(0.5, 2), *minutes(2.0, 2)]),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_pauses_evaluations_and_compilation_are_no_fallen_throughput(
    name: str, times: list[float]
) -> None:
    assert findings(ThroughputFell(), observed(step_times=step_times(times))) == []


@pytest.mark.parametrize("phase", ["evaluating", "saving", "paused", "starting"])
def test_rules_about_steps_do_not_judge_while_there_are_none(phase: str) -> None:
    observation = observed(phase=phase, step_times=step_times(minutes(0.5, 20)))
    rules: Sequence[RunRule] = (ThroughputFell(), DataLoaderBound(), GpuIdle(), CheckpointOverdue())
    assert [rule.judge(observation) for rule in rules] == [None] * 4


def test_a_training_that_waits_for_most_of_the_time_is_bound_by_its_data() -> None:
    observation = observed(step_times=step_times(minutes(0.1, 8), wait=0.4))
    [found] = findings(DataLoaderBound(), observation)
    assert found.summary.startswith("80 % of the time is a wait for data")


@pytest.mark.parametrize(
    "times",
    [
        step_times(minutes(0.5, 8), wait=0.1),
        step_times([0.001] * 60_000, wait=0.009),  # nothing but Python's own time
        step_times(minutes(0.1, 8), wait=2.0, interrupted=True),  # it evaluates after each step
        step_times([0.1] * 400, wait=0.4),
    ],
    ids=["little", "tiny steps", "evaluations", "short"],
)
def test_a_training_that_computes_or_evaluates_is_not_bound_by_its_data(times: StepTimes) -> None:
    assert findings(DataLoaderBound(), observed(step_times=times)) == []


def gpus(*busy: float, used: float = 20e9) -> dict[str, Any]:
    """The samples of a host whose GPUs have these utilizations."""
    return {
        "node": {
            name: samples([value] * 12)
            for gpu, utilization in enumerate(busy)
            for name, value in (
                (f"gpu{gpu}/utilization_ratio", utilization),
                (f"gpu{gpu}/memory_used_bytes", used),
            )
        }
    }


@pytest.mark.parametrize(
    ("world_size", "metrics", "idle"),
    [
        (1, gpus(0.0), "gpu0"),
        (1, gpus(0.9), ""),
        (1, gpus(0.0, 0.9), ""),  # it may use the other one
        (2, gpus(0.0, 0.9), "gpu0"),
        (8, gpus(*[0.9] * 8), ""),
        (1, gpus(0.0, used=1e6), ""),  # a training without a GPU
        (4, gpus(0.9), ""),  # four processes share one
        (1, {}, ""),
        (2, gpus(0.0, 0.9) | {"other": gpus(0.9, 0.0)["node"]}, ""),
    ],
)
def test_a_training_with_fewer_busy_gpus_than_processes_leaves_gpus_idle(
    world_size: int, metrics: dict[str, Any], idle: str
) -> None:
    observation = observed(facts={"world_size": world_size}, gpus=metrics)
    assert [found.details["idle"] for found in findings(GpuIdle(), observation)] == (
        [[idle]] if idle else []
    )


def test_a_gpu_that_was_busy_in_the_last_minute_is_not_idle() -> None:
    metrics = gpus(0.0)
    metrics["node"]["gpu0/utilization_ratio"] = samples([0.0] * 8 + [0.8] + [0.0] * 3)
    assert findings(GpuIdle(), observed(gpus=metrics)) == []


def checkpoints(*steps: int, attempt: str = "a1") -> list[Checkpoint]:
    return [Checkpoint(attempt, step, None, at(0), f"/c-{step}", best=False) for step in steps]


@pytest.mark.parametrize(
    ("arguments", "saved", "text"),
    [
        (
            {"save_strategy": "steps", "save_steps": 300},
            checkpoints(100),
            "no checkpoint for 900 steps, usual are 300: the newest is of step 100",
        ),
        (
            {"save_strategy": "steps", "save_steps": 0.05},  # a part of 5,000
            (),
            "no checkpoint for 1,000 steps, usual are 250: none in this attempt",
        ),
        (
            {"save_strategy": "epoch"},
            checkpoints(100, 200, 300, 400),
            "no checkpoint for 600 steps, usual are 100: the newest is of step 400",
        ),
        ({}, checkpoints(0, 200, 400, 600), ""),  # a loop that saves by itself, due at 1,000
        ({"save_strategy": "steps", "save_steps": 500}, checkpoints(500), ""),
        ({"save_strategy": "steps", "save_steps": 600}, (), ""),
        ({"save_strategy": "no"}, checkpoints(1, 2, 3, 4), ""),
        ({"save_strategy": "best"}, checkpoints(1, 2, 3, 4), ""),
        ({"save_strategy": "epoch"}, checkpoints(100, 200), ""),
        ({"save_strategy": "epoch"}, checkpoints(1, 2, 3, 4, attempt="a0"), ""),
        ({}, (), ""),
    ],
)
def test_a_checkpoint_is_overdue_by_the_arguments_or_the_rhythm_of_the_attempt(
    arguments: dict[str, Any], saved: Sequence[Checkpoint], text: str
) -> None:
    found = findings(CheckpointOverdue(), observed(facts={"args": arguments}, checkpoints=saved))
    assert [one.summary for one in found] == ([text] if text else [])


def subscriber_error(action: str, age: float = 10.0) -> EventRow:
    data = {
        "subscriber": "slack",
        "action": action,
        "kind": "log",
        "producer": "rank0",
        "seq": 7,
        "tries": 4,
        "error": {"type": "OSError", "message": "down"},
    }
    return EventRow(1, "slack", "a", 0, "subscriber_error", 5, None, at(-age), 0, data, None)


@pytest.mark.parametrize(
    ("action", "age", "text"),
    [
        ("retrying", 86_400, "slack fails and retries on log 7 of rank0: OSError: down"),
        ("stopped", 86_400, "slack stopped on log 7 of rank0: OSError: down"),
        ("skipped", 10, "slack failed and skipped on log 7 of rank0: OSError: down"),
        ("skipped", 3601, ""),
        ("recovered", 10, ""),
    ],
)
def test_a_subscriber_that_fails_is_reported_until_it_succeeds(
    action: str, age: float, text: str
) -> None:
    observation = observed(errors={"slack": subscriber_error(action, age)})
    found = findings(SubscriberErrors(), observation)
    assert [one.summary for one in found] == ([text] if text else [])


def test_a_rule_applies_to_the_runs_and_projects_that_its_options_name() -> None:
    observation = observed()
    assert Lost().applies_to(observation)
    assert Lost(runs=["a *"]).applies_to(observation)
    assert Lost(projects=["te*"]).applies_to(observation)
    assert not Lost(runs=["other"]).applies_to(observation)
    assert not Lost(runs=["run"], projects=["other"]).applies_to(observation)
