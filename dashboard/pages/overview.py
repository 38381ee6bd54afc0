"""What the head of a run's page shows: where it stands, how fast, how long still, and its line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lineside.bus.protocol.commands import PAUSE_SECONDS
from lineside.dashboard.words import NOTHING, duration, is_number, number, plural
from lineside.store.history.records import Attempt, Checkpoint, Command, EventRow, Run
from lineside.store.status.pulse import PAUSED

KEY_METRICS = ("loss", "train/loss", "train_loss", "eval_loss", "eval/loss")
"""What stands for a run in a list: the first of these it has logged."""
STEPS_TO_JUDGE, SECONDS_TO_JUDGE = 3, 5.0
"""Progress an attempt must have made before its pace is said."""
MOST_STATIONS = 60


@dataclass(frozen=True)
class Fact:
    """One figure. With ``since`` set the page counts up from there instead of showing ``value``."""

    label: str
    value: str
    unit: str = ""
    tone: str = ""
    since: datetime | None = None


@dataclass(frozen=True)
class Station:
    """A checkpoint (``save``), an evaluation, or where an ``attempt`` went on from."""

    kind: str
    percent: float
    said: str


@dataclass(frozen=True)
class Line:
    """The run drawn as a line from step 0 to ``end``; ``percent`` of it is done."""

    percent: float
    end: str
    said: str
    stations: list[Station]


def key_metric(run: Run) -> tuple[str, float] | None:
    """The metric a list shows for the run."""
    for name in KEY_METRICS:
        if name in run.metrics:
            return name, run.metrics[name]
    return None


def percent(step: int | None, max_steps: int | None) -> float:
    """Progress of 0 to 100; 0 where it is not known."""
    if not step or not max_steps:
        return 0.0
    return round(min(100.0, 100 * step / max_steps), 2)


def seconds_a_step(
    attempt: Attempt, now: datetime, commands: Sequence[Command] = ()
) -> float | None:
    """Wall-clock seconds an attempt took for each of its steps, all that came between included but
    for the pauses among the ``commands``.

    None until it has gone far enough to judge.
    """
    steps = (attempt.step or 0) - (attempt.resumed_step or 0)
    end = attempt.ended_at or (now if attempt.going_on else attempt.updated_at)
    seconds = (end - attempt.started_at).total_seconds() - _seconds_paused(attempt, end, commands)
    if steps < STEPS_TO_JUDGE or seconds <= 0:
        return None
    if attempt.going_on and seconds < SECONDS_TO_JUDGE:
        return None
    return seconds / steps


def facts(run: Run, now: datetime, commands: Sequence[Command] = ()) -> list[Fact]:
    """The row of figures under the line, of a run to which there were these ``commands``."""
    attempt = run.attempts[-1] if run.attempts else None
    steps = Fact("Step", number(run.step))
    if run.max_steps:
        done = percent(run.step, run.max_steps)
        steps = Fact("Step", number(run.step), f"of {run.max_steps:,} · {done:.0f} %")
    found = [steps, Fact("Epoch", number(None if run.epoch is None else round(run.epoch, 2)))]
    found.extend(_times(run, attempt, now, commands))
    found.extend(
        Fact(label, number(run.metrics[name]))
        for name, label in (("loss", "Loss"), ("eval_loss", "Eval loss"))
        if name in run.metrics
    )
    account = run.loss_account
    lost = account.gaps
    of = f"of {plural(account.emitted, 'event')}"
    found.append(Fact("Lost", number(lost), of, "caution" if lost else "clear"))
    return found


def line(run: Run, checkpoints: Sequence[Checkpoint], evaluations: Sequence[EventRow]) -> Line:
    """The run as a line. Where stations stand too close, some are left out."""
    attempt = run.attempts[-1].attempt if run.attempts else None
    step = run.step or 0
    end = max(run.max_steps or 0, step, 1)
    stations = [
        Station("evaluate", percent(at, end), f"evaluated at step {at:,}")
        for at in _spread([row.step for row in evaluations if row.attempt == attempt])
    ]
    stations += [
        Station("save", percent(at, end), f"checkpoint at step {at:,}")
        for at in _spread([saved.step for saved in checkpoints if saved.attempt == attempt])
    ]
    stations += [
        Station(
            "attempt",
            percent(start.resumed_step, end),
            f"attempt {start.number} went on from step {start.resumed_step:,}",
        )
        for start in run.attempts[-1:]
        if start.resumed_step
    ]
    last = f"{run.max_steps:,} steps" if run.max_steps else f"step {step:,}"
    said = f"Step {step:,} of {end:,}, {plural(len(checkpoints), 'checkpoint')}"
    return Line(percent(step, end), last, said, stations)


def _times(
    run: Run, attempt: Attempt | None, now: datetime, commands: Sequence[Command]
) -> list[Fact]:
    if attempt is None:
        return []
    many = f"attempt {attempt.number}" if len(run.attempts) > 1 else ""
    if attempt.going_on and run.going_on:
        found = [Fact("Running for", "", many, since=attempt.started_at)]
    else:
        end = attempt.ended_at or attempt.updated_at
        found = [Fact("Took", duration((end - attempt.started_at).total_seconds()), many)]
    pace = seconds_a_step(attempt, now, commands)
    if run.status == "running" and run.max_steps:
        left = max(0, run.max_steps - (run.step or 0))
        if run.phase == PAUSED:
            found.append(Fact("Still to go", NOTHING, "while paused"))
        elif pace is None:
            found.append(Fact("Still to go", NOTHING, "too early to say"))
        else:
            found.append(Fact("To go at this pace", duration(left * pace)))
    if pace:
        faster = 1 / pace >= 1
        value, unit = (1 / pace, "steps/s") if faster else (pace, "s/step")
        found.append(Fact("Pace", number(float(f"{value:.3g}")), unit))
    return found


def _seconds_paused(attempt: Attempt, end: datetime, commands: Sequence[Command]) -> float:
    """For how long commands held the attempt up, until ``end``."""
    turns = [
        (command.settled_at, command)
        for command in commands
        if command.state == "applied" and command.attempt == attempt.attempt
        if command.op in ("pause", "resume", "stop") and command.settled_at
    ]
    seconds, over = 0.0, end
    for at, command in sorted(turns, key=lambda turn: turn[0], reverse=True):
        if command.op == "pause":
            asked: Any = command.args.get("seconds")
            longest = asked if is_number(asked) else PAUSE_SECONDS
            seconds += max(0.0, min(longest, (over - at).total_seconds()))
        over = at
    return seconds


def _spread(steps: Sequence[int]) -> list[int]:
    every = -(-len(steps) // MOST_STATIONS) or 1
    return list(steps[::-every][::-1])
