from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from lineside.dashboard import formatting
from lineside.dashboard.pages import controls, run_overview, sections, timeline
from lineside.store.history.checkpoints import Checkpoint
from lineside.store.history.curves.records import Series
from lineside.store.history.records import (
    Attempt,
    Command,
    EventRow,
    LossAccount,
    Run,
)

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=timezone.utc)


def make_attempt(**changed: Any) -> Attempt:
    fields: dict[str, Any] = {
        "attempt": "a1",
        "number": 1,
        "status": "running",
        "reason": None,
        "started_at": NOW - timedelta(seconds=100),
        "ended_at": None,
        "updated_at": NOW,
        "step": 50,
        "max_steps": 200,
        "epoch": 0.5,
        "resumed_attempt": None,
        "resumed_step": None,
    }
    return Attempt(**{**fields, **changed})


def make_run(attempt: Attempt, **changed: Any) -> Run:
    fields: dict[str, Any] = {
        "id": "r",
        "name": "r",
        "project": "p",
        "status": attempt.status,
        "reason": None,
        "attempts": (attempt,),
        "step": attempt.step,
        "max_steps": attempt.max_steps,
        "epoch": attempt.epoch,
        "started_at": attempt.started_at,
        "ended_at": attempt.ended_at,
        "updated_at": attempt.updated_at,
        "event_counts": {},
        "loss_account": LossAccount(),
        "metrics": {},
        "note": None,
        "tags": (),
    }
    return Run(**{**fields, **changed})


def facts_of(run: Run, *commands: Command) -> dict[str, str]:
    found = run_overview.facts(run, NOW, commands)
    return {fact.label: f"{fact.value} {fact.unit}".strip() for fact in found}


def applied_command(op: str, seconds_ago: float, **changed: Any) -> Command:
    """A command that was applied so long ago."""
    at = NOW - timedelta(seconds=seconds_ago)
    fields: dict[str, Any] = {
        "id": f"{op}-{seconds_ago}",
        "op": op,
        "args": {},
        "reason": "",
        "issued_by": "",
        "requested_at": at,
        "expires_at": NOW,
        "state": "applied",
        "delivered_at": at,
        "settled_at": at,
        "attempt": "a1",
        "step": 10,
        "detail": "",
    }
    return Command(**{**fields, **changed})


def test_time_left_comes_from_the_steps_of_this_attempt() -> None:
    assert facts_of(make_run(make_attempt()))["Time left"] == "5m 00s"
    resumed = make_attempt(resumed_step=40, number=2)
    assert facts_of(make_run(resumed))["Time left"] == "25m 00s"
    assert facts_of(make_run(resumed))["Pace"] == "10 s/step"


def test_time_left_is_missing_until_it_is_known_and_after_the_end() -> None:
    early = make_attempt(step=2)
    assert facts_of(make_run(early))["Time left"] == "\N{EN DASH} not known yet"
    quick = make_attempt(started_at=NOW - timedelta(seconds=2))
    assert facts_of(make_run(quick))["Time left"] == "\N{EN DASH} not known yet"
    ended = make_attempt(status="finished", ended_at=NOW)
    assert "Time left" not in facts_of(make_run(ended))
    assert facts_of(make_run(ended))["Took"] == "1m 40s"
    silent = make_attempt(status="disconnected", updated_at=NOW - timedelta(seconds=50))
    assert "Time left" not in facts_of(make_run(silent))
    assert facts_of(make_run(silent))["Took"] == "50s"
    endless = make_attempt(max_steps=None)
    assert "Time left" not in facts_of(make_run(endless))


def test_a_pause_does_not_count_for_the_pace_and_hides_the_time_left() -> None:
    run = make_run(make_attempt())
    turns = [
        applied_command("pause", 90),
        applied_command("resume", 70),
        applied_command("pause", 60, args={"seconds": 25.0}),  # ended by itself
        applied_command("save", 50),
        applied_command("pause", 40, state="rejected"),
        applied_command("pause", 40, attempt="a0"),
        applied_command("pause", 5),
        applied_command("resume", 0),
    ]
    assert facts_of(run, *turns)["Pace"] == "1 steps/s"
    assert facts_of(run, *reversed(turns))["Time left"] == "2m 30s"
    begun = applied_command("pause", 50, args={"seconds": "odd"})
    paused = facts_of(make_run(make_attempt(phase="paused"), phase="paused"), begun)
    assert paused["Time left"] == "\N{EN DASH} while paused"
    assert paused["Pace"] == "1 steps/s"
    ended = make_attempt(status="stopped", ended_at=NOW - timedelta(seconds=25))
    assert facts_of(make_run(ended), applied_command("pause", 50))["Pace"] == "1 steps/s"


def test_a_run_past_its_last_step_has_no_time_left() -> None:
    past = make_attempt(step=201)
    assert facts_of(make_run(past))["Time left"] == "0s"
    assert run_overview.percent(201, 200) == 100.0


def test_the_progress_line_has_few_markers_of_the_newest_attempt() -> None:
    def saved(attempt: str, step: int) -> Checkpoint:
        return Checkpoint(attempt, step, None, NOW, f"/c-{step}", best=False)

    newest = make_attempt(attempt="a2", number=2, resumed_step=100, step=500, max_steps=1000)
    run = make_run(newest, attempts=(make_attempt(), newest), step=500, max_steps=1000)
    checkpoints = [saved("a1", 10), *(saved("a2", step) for step in range(101, 500))]
    progress_line = run_overview.progress_line(run, checkpoints, [])
    assert progress_line.percent == 50.0
    markers = [marker for marker in progress_line.markers if marker.kind == "save"]
    assert len(markers) <= run_overview.MAX_MARKERS
    assert markers[-1].label == "checkpoint at step 499"
    assert not any(marker.label[-7:] == "step 10" for marker in markers)
    assert [marker.percent for marker in progress_line.markers if marker.kind == "attempt"] == [
        10.0
    ]


def test_the_progress_line_of_a_run_without_a_limit_ends_at_its_step() -> None:
    run = make_run(make_attempt(max_steps=None), attempts=())
    assert (
        run_overview.progress_line(run, [], []).percent,
        run_overview.progress_line(run, [], []).end,
    ) == (
        100.0,
        "step 50",
    )
    assert run_overview.progress_line(replace(run, step=None), [], []).percent == 0.0


def make_series(name: str, count: int = 9, producer: str = "rank0") -> Series:
    return Series(name, "a1", producer, count, 1.0, 9, NOW, 0.5, 2.0)


def test_charts_are_grouped_with_the_loss_first_and_single_values_apart() -> None:
    names = ["zeta", "learning_rate", "loss", "eval_runtime", "eval_loss", "rl/reward", "epoch"]
    series = [*(make_series(name) for name in names), make_series("train_loss", 1)]
    groups, singles = sections.charts(series, is_running=False)
    assert [(group.name, [one.name for one in group.charts]) for group in groups] == [
        ("Training", ["loss", "learning_rate", "zeta"]),
        ("Evaluation", ["eval_loss", "eval_runtime"]),
        ("rl", ["rl/reward"]),
    ]
    assert [one.name for one in singles] == ["train_loss"]
    assert not sections.charts(series, is_running=True)[1]


def test_a_page_shows_the_most_important_of_many_metrics() -> None:
    names = [f"eval_label_{number}" for number in range(sections.MAX_CHARTS)]
    series = [make_series(name, producer="evaluator") for name in names]
    shown = sections.most_important([*series, make_series("zeta"), make_series("loss")])
    assert [one.name for one in shown[:3]] == ["loss", "zeta", "eval_label_0"]
    assert len(shown) == sections.MAX_CHARTS
    assert sections.most_important(series) == series


def test_charts_of_other_producers_are_grouped_by_producer() -> None:
    series = [make_series("loss"), make_series("loss", producer="evaluator"), make_series("x/y")]
    groups, _ = sections.charts(series, is_running=False)
    assert [(group.name, [one.producer for one in group.charts]) for group in groups] == [
        ("Training", ["rank0"]),
        ("x", ["rank0"]),
        ("From evaluator", ["evaluator"]),
    ]


def test_a_metric_of_a_training_may_be_named_like_a_section_of_a_machine() -> None:
    assert sections.charts([make_series("System: a, GPU \u00b2/loss")], is_running=False)[0]


def test_a_machine_is_a_section_with_its_gpus_and_without_what_never_changes() -> None:
    names = ["process/count", "host/memory_total_bytes", "process/cpu_cores", "host/load1"]
    gpu = ["gpu10/power_watts", "gpu2/xid_errors_total", "gpu2/utilization_ratio"]
    series = [make_series(name, producer="sampler-a", count=1) for name in (*gpu, *names)]
    series += [make_series("loss"), make_series("loss", producer="evaluator")]
    groups, singles = sections.charts(series, is_running=False)
    assert [(group.name, [one.name for one in group.charts]) for group in groups] == [
        ("Training", ["loss"]),
        ("From evaluator", ["loss"]),
        ("System: a", ["process/cpu_cores", "process/count", "host/load1"]),
        ("System: a, GPU 2", ["gpu2/utilization_ratio", "gpu2/xid_errors_total"]),
        ("System: a, GPU 10", ["gpu10/power_watts"]),
    ]
    assert [group.is_system for group in groups] == [False, False, True, True, True]
    assert singles == []


def test_the_configuration_is_flat_and_complete() -> None:
    facts = {
        "args": {"lr": 0.1, "nested": {"a": {"b": [1, 2]}}, "odd": {"!": "<object>"}, "none": None},
        "model": {"class": "M"},
        "world_size": 2,
        "state": {"max_steps": 5},
        "new": {"thing": [{"x": 1}]},
    }
    flat = {
        f"{group.name}:{row.name}": (row.value, row.faint)
        for group in sections.configuration(facts)
        for row in group.rows
    }
    assert flat == {
        "Arguments:lr": ("0.1", False),
        "Arguments:nested.a.b": ("1, 2", False),
        "Arguments:none": ("none", True),
        "Arguments:odd": ("<object>", True),
        "Model:class": ("M", False),
        "Run:new.thing": ('[{"x": 1}]', False),
        "Run:world_size": ("2", False),
    }
    assert sections.configuration({}) == []


@pytest.mark.parametrize(
    ("kind", "data", "text", "tone"),
    [
        ("evaluate", {"metrics": {"eval_loss": 2.5, "epoch": 1.0}}, "eval_loss 2.5", ""),
        ("log", {"logs": {"loss": float("nan")}}, "loss NaN", ""),
        ("save", {"checkpoint": "/data/c-5"}, "c-5", ""),
        ("train_end", {}, "", "clear"),
        ("run_end", {"how": "exit"}, "the process ended", ""),
        ("run_end", {"how": "restarted"}, "another training started in the same process", ""),
        (
            "run_end",
            {"how": "exception", "error": {"type": "E", "message": "m"}},
            "E: m",
            "danger",
        ),
        ("process_exit", {"exit_code": 0, "signal": None}, "exit code 0", ""),
        ("process_exit", {"exit_code": 3, "signal": None}, "exit code 3", "danger"),
        ("process_exit", {"exit_code": None, "signal": "SIGKILL"}, "ended by SIGKILL", "danger"),
        (
            "process_lost",
            {"producer": "rank0", "phase": "saving"},
            "rank0 ended while saving without reporting why",
            "caution",
        ),
        (
            "gap",
            {"first": 5, "end": 15, "why": "cap"},
            "10 events dropped: the spool was full",
            "caution",
        ),
        (
            "gap",
            {"first": 5, "end": 6, "why": "invalid", "error": "too long", "kept": "/s/a.seg"},
            "1 event dropped: the broker cannot read it (too long); kept in /s/a.seg",
            "caution",
        ),
        ("gap", {}, "", "caution"),
        ("alert", {"rule": "flat", "why": "no better"}, "flat: no better", "caution"),
        (
            "alert",
            {"rule": "flat", "why": "no better", "action": "stop", "dry_run": True},
            "flat: no better (would stop)",
            "caution",
        ),
        (
            "subscriber_error",
            {
                "subscriber": "slack",
                "action": "retrying",
                "method": "on_log",
                "error": {"type": "ConnectionError", "message": "refused"},
            },
            "slack retrying on_log: ConnectionError: refused",
            "caution",
        ),
        (
            "subscriber_error",
            {"subscriber": "slack", "action": "recovered", "method": "on_log", "error": None},
            "slack recovered on_log",
            "caution",
        ),
        (
            "run_start",
            {"process": {"pid": 1, "host": "h"}, "world_size": 2},
            "pid 1 on h, 2 ranks",
            "",
        ),
        ("run_start", {}, "", ""),
        ("evaluate", {"metrics": "odd"}, "", ""),
        ("brand_new", {"x": 1}, "", ""),
        (
            "command",
            {"op": "stop", "args": {"save": False}, "issued_by": "ada@here", "reason": "flat"},
            "Stop without saving, by ada@here: flat",
            "",
        ),
        ("command", {"op": 1, "args": 2, "issued_by": None}, "1, by somebody", ""),
        (
            "control_applied",
            {"op": "set_lr", "from": 1, "to": 0.5},
            "Learning rate: from 1 to 0.5",
            "",
        ),
        ("control_rejected", {"why": "no"}, "no", "caution"),
        ("control_expired", {"op": "save"}, "Save", "caution"),
        ("control_on", {"ops": [], "why": "two ranks"}, "two ranks", ""),
        ("control_on", {}, "", ""),
    ],
)
def test_an_event_has_a_text_and_a_tone(kind: str, data: Any, text: str, tone: str) -> None:
    row = EventRow(1, "rank0", "a1", 0, kind, 5, None, NOW, 0, data, None)
    entry = timeline.entry(row, NOW - timedelta(seconds=192))
    assert (entry.text, entry.tone, entry.offset) == (text, tone, "+00:03:12")


@pytest.mark.parametrize(
    ("op", "args", "text"),
    [
        ("stop", {}, "Stop"),
        ("stop", {"save": False}, "Stop without saving"),
        ("pause", {"seconds": 90}, "Pause for 1m 30s"),
        ("pause", {"seconds": True}, "Pause"),
        ("set_lr", {"lr": 0.0005}, "Learning rate 5e-4"),
        ("set_lr", {"lr": float("nan")}, "Learning rate"),
        ("evaluate", {}, "Evaluate"),
        ("brand_new", {"x": 1}, "Brand new"),
        (None, {}, "Unknown command"),
    ],
)
def test_a_command_has_a_label(op: str | None, args: Any, text: str) -> None:
    assert formatting.command_label(op, args) == text


def test_the_progress_of_a_command_lists_when_it_reached_each_state() -> None:
    command = Command(
        id="c",
        op="save",
        args={},
        reason="",
        issued_by="",
        requested_at=NOW,
        expires_at=NOW,
        state="applied",
        delivered_at=NOW + timedelta(seconds=0.25),
        settled_at=NOW + timedelta(seconds=1),
        attempt="a",
        step=5,
        detail="",
    )
    row = controls.command_row(command, NOW)
    assert row.progress == f"requested {NOW:%H:%M:%S} UTC, delivered +0.2 s, applied +1.0 s"
    assert (row.action, row.result, row.issuer, row.expired_at) == (
        "Save",
        "step 5",
        "somebody",
        None,
    )
    answer_only = replace(command, op=None, requested_at=None, delivered_at=None)
    assert controls.command_row(answer_only, NOW).progress.startswith("applied ")
    assert controls.command_row(answer_only, NOW).action == "Unknown command"


def test_an_unreadable_event_shows_the_reason() -> None:
    row = EventRow(1, "rank1", "a1", 0, "log", 5, None, NOW, 0, {"x": "y" * 30_000}, "logs missing")
    entry = timeline.entry(row, NOW + timedelta(seconds=1))
    assert (entry.text, entry.tone, entry.where) == ("logs missing", "caution", "step 5 · rank1")
    assert entry.data.endswith("… truncated")
    assert entry.offset == "-00:00:01"
