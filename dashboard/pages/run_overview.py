"""The top of a run's page: figures, pace, time left, and the progress line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lineside.bus.protocol.commands import PAUSE_SECONDS
from lineside.bus.wording import plural
from lineside.dashboard.formatting import NO_VALUE, duration, is_number, number
from lineside.store.history.checkpoints import Checkpoint
from lineside.store.history.records import Attempt, Command, EventRow, Run
from lineside.store.status.liveness import PAUSED
from lineside.store.status.verdict import RUNNING

MIN_STEPS_FOR_PACE, MIN_SECONDS_FOR_PACE = 3, 5.0
"""Progress of an attempt before its pace is shown."""
MAX_MARKERS = 60


@dataclass(frozen=True)
class Fact:
    """One figure. With ``since`` set the page counts up from there instead of showing ``value``."""

    label: str
    value: str
    unit: str = ""
    tone: str = ""
    since: datetime | None = None


@dataclass(frozen=True)
class Marker:
    """A checkpoint (``save``), an evaluation, or the step at which an ``attempt`` resumed."""

    kind: str
    percent: float
    label: str


@dataclass(frozen=True)
class ProgressLine:
    """The run drawn as a line from step 0 to ``end``; ``percent`` of it is done."""

    percent: float
    end: str
    label: str
    markers: list[Marker]


def status_mark(status: str, phase: str | None) -> str:
    """The mark beside a status: its own, or ``paused`` for a running training that waits."""
    return PAUSED if status == RUNNING and phase == PAUSED else status


def percent(step: int | None, max_steps: int | None) -> float:
    """Progress from 0 to 100; 0 if unknown."""
    if not step or not max_steps:
        return 0.0
    return round(min(100.0, 100 * step / max_steps), 2)


def seconds_per_step(
    attempt: Attempt, now: datetime, commands: Sequence[Command] = ()
) -> float | None:
    """Wall-clock seconds for each step of ``attempt``, without the pauses among ``commands``.

    None until the attempt has made enough progress to judge.
    """
    steps = (attempt.step or 0) - (attempt.resumed_step or 0)
    end = attempt.ended_at or (now if attempt.is_running else attempt.updated_at)
    seconds = (end - attempt.started_at).total_seconds() - _paused_seconds(attempt, end, commands)
    if steps < MIN_STEPS_FOR_PACE or seconds <= 0:
        return None
    if attempt.is_running and seconds < MIN_SECONDS_FOR_PACE:
        return None
    return seconds / steps


def facts(run: Run, now: datetime, commands: Sequence[Command] = ()) -> list[Fact]:
    """The figures under the progress line; pauses among ``commands`` do not count as time."""
    attempt = run.attempts[-1] if run.attempts else None
    steps = Fact("Step", number(run.step))
    if run.max_steps:
        done = percent(run.step, run.max_steps)
        steps = Fact("Step", number(run.step), f"of {run.max_steps:,} · {done:.0f} %")
    found = [steps, Fact("Epoch", number(None if run.epoch is None else round(run.epoch, 2)))]
    found.extend(_times(run, attempt, now, commands))
    found.extend(
        Fact(
            label, number(metric.value), "" if metric.name in ("loss", "eval_loss") else metric.name
        )
        for metric, label in ((run.loss, "Loss"), (run.eval_loss, "Eval loss"))
        if metric and (label == "Eval loss" or metric != run.eval_loss)
    )
    account = run.loss_account
    missing = account.gaps
    of = f"of {plural(account.emitted, 'event')}"
    found.append(Fact("Missing", number(missing), of, "caution" if missing else "clear"))
    return found


def progress_line(
    run: Run, checkpoints: Sequence[Checkpoint], evaluations: Sequence[EventRow]
) -> ProgressLine:
    """The run as a line with at most ``MAX_MARKERS`` markers of each kind."""
    attempt = run.attempts[-1].attempt if run.attempts else None
    step = run.step or 0
    end = max(run.max_steps or 0, step, 1)
    markers = [
        Marker("evaluate", percent(at, end), f"evaluated at step {at:,}")
        for at in _thin_out([row.step for row in evaluations if row.attempt == attempt])
    ]
    markers += [
        Marker("save", percent(at, end), f"checkpoint at step {at:,}")
        for at in _thin_out([saved.step for saved in checkpoints if saved.attempt == attempt])
    ]
    markers += [
        Marker(
            "attempt",
            percent(start.resumed_step, end),
            f"attempt {start.number} resumed at step {start.resumed_step:,}",
        )
        for start in run.attempts[-1:]
        if start.resumed_step
    ]
    last = plural(run.max_steps, "step") if run.max_steps else f"step {step:,}"
    label = f"Step {step:,} of {end:,}, {plural(len(checkpoints), 'checkpoint')}"
    return ProgressLine(percent(step, end), last, label, markers)


def _times(
    run: Run, attempt: Attempt | None, now: datetime, commands: Sequence[Command]
) -> list[Fact]:
    if attempt is None:
        return []
    attempt_label = f"attempt {attempt.number}" if len(run.attempts) > 1 else ""
    if attempt.is_running and run.is_running:
        found = [Fact("Running for", "", attempt_label, since=attempt.started_at)]
    else:
        end = attempt.ended_at or attempt.updated_at
        found = [Fact("Took", duration((end - attempt.started_at).total_seconds()), attempt_label)]
    pace = seconds_per_step(attempt, now, commands)
    if run.status == "running" and run.max_steps:
        left = max(0, run.max_steps - (run.step or 0))
        if run.phase == PAUSED:
            found.append(Fact("Time left", NO_VALUE, "while paused"))
        elif pace is None:
            found.append(Fact("Time left", NO_VALUE, "not known yet"))
        else:
            found.append(Fact("Time left", duration(left * pace)))
    if pace:
        faster = 1 / pace >= 1
        value, unit = (1 / pace, "steps/s") if faster else (pace, "s/step")
        found.append(Fact("Pace", number(float(f"{value:.3g}")), unit))
    return found


def _paused_seconds(attempt: Attempt, end: datetime, commands: Sequence[Command]) -> float:
    """How long commands paused the attempt before ``end``."""
    applied = [
        (command.settled_at, command)
        for command in commands
        if command.state == "applied" and command.attempt == attempt.attempt
        if command.op in ("pause", "resume", "stop") and command.settled_at
    ]
    seconds, pause_end = 0.0, end
    for at, command in sorted(applied, key=lambda pair: pair[0], reverse=True):
        if command.op == "pause":
            requested: Any = command.args.get("seconds")
            longest = requested if is_number(requested) else PAUSE_SECONDS
            seconds += max(0.0, min(longest, (pause_end - at).total_seconds()))
        pause_end = at
    return seconds


def _thin_out(steps: Sequence[int]) -> list[int]:
    every = -(-len(steps) // MAX_MARKERS) or 1
    return list(steps[::-every][::-1])
