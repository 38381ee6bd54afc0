"""``lineside runs`` and ``show``: the list of runs, and one of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated

import typer

from lineside.bus.terminal_text import printable
from lineside.cli.output import (
    JsonOption,
    local_time,
    pairs,
    print_json,
    shorten,
    step_text,
    table,
    warn,
)
from lineside.cli.run_lookup import RunArgument, open_history_and_transit
from lineside.dashboard import formatting, loss_account
from lineside.dashboard.transit import RecorderLag, add_spool

if TYPE_CHECKING:
    from lineside.store.history.checkpoints import Checkpoint
    from lineside.store.history.records import Alert, Attempt, Run, StreamAccount

CHECKPOINTS_SHOWN = 20
"""The newest checkpoints that ``show`` lists; ``lineside checkpoints`` has all of them."""


def runs(
    search: Annotated[
        str | None,
        typer.Argument(help="Only runs with this in id, name, project, note, tags or group."),
    ] = None,
    status: Annotated[
        list[str] | None,
        typer.Option(help="Only runs of this status, as running or failed; may be repeated."),
    ] = None,
    project: Annotated[str | None, typer.Option(help="Only runs of this project.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only runs with this tag.")] = None,
    group: Annotated[str | None, typer.Option(help="Only runs of this group.")] = None,
    sort: Annotated[
        str,
        typer.Option(
            help="started_at, ended_at, updated_at, name, project, status or step; - reverses."
        ),
    ] = "-started_at",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most this many.")] = 20,
    cursor: Annotated[
        str | None, typer.Option(help="Continue an earlier list: its `next`.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List runs, the newest first.

    Names and projects are cut to 40 characters; `--json` has them whole.
    """
    history, _ = open_history_and_transit()
    page = history.runs(
        statuses=status or (),
        project=project,
        search=search,
        tag=tag,
        group=group,
        sort=sort,
        limit=limit,
        cursor=cursor,
    )
    if json:
        from lineside.dashboard.api.models import Run

        items = [Run.model_validate(run).model_dump(mode="json") for run in page.items]
        print_json({"items": items, "next": page.next})
        return
    if not page.items:
        warn("no runs" + (" match" if search or status or project or tag or group else " yet"))
        return
    now = datetime.now(timezone.utc)
    header = ("RUN", "NAME", "PROJECT", "STATUS", "STEP", "LOSS", "STARTED", "TOOK")
    typer.echo(table(header, [_run_row(run, now) for run in page.items], right=(4, 5, 7)))
    if page.next:
        warn(f"more runs: use --limit, or --cursor {page.next}")


def _run_row(run: Run, now: datetime) -> tuple[str, ...]:
    end = run.ended_at or run.updated_at
    return (
        run.id,
        shorten(run.name) if run.name != run.id else "",
        shorten(run.project),
        f"{run.status} (paused)" if run.phase == "paused" else run.status,
        step_text(run.step, run.max_steps),
        formatting.number(run.loss.value) if run.loss else "",
        formatting.ago(run.started_at, now),
        formatting.duration((end - run.started_at).total_seconds()),
    )


def show(run: RunArgument, json: JsonOption = False) -> None:
    """Show one run: alerts, attempts, last values, events, account and checkpoints."""
    history, transit = open_history_and_transit()
    found = history.find(run)
    on_its_way = transit.transit(found.id)
    streams = add_spool(history.streams(found.id), on_its_way)
    checkpoints = history.checkpoints(found.id)
    alerts = history.alerts.open(run=found.id)
    if json:
        from lineside.dashboard.api import alert_models, checkpoint_models, models

        document = models.Run.model_validate(found).model_dump(mode="json")
        document["loss_account"] |= {name: sum_of(streams, name) for name in ("emitted", "lag")}
        document["in_spool"] = on_its_way.in_spool
        document["recorder"] = models.Recorder.from_lag(on_its_way.recorder).model_dump()
        document["streams"] = [
            models.Stream.model_validate(s).model_dump(mode="json") for s in streams
        ]
        document["checkpoints"] = [
            checkpoint_models.Checkpoint.from_store(c).model_dump(mode="json") for c in checkpoints
        ]
        document["alerts"] = [
            alert_models.Alert.from_store(alert).model_dump(mode="json") for alert in alerts
        ]
        print_json(document)
        return
    sections = [
        printable(
            f"{found.name}  ({found.status})" + (f": {found.reason}" if found.reason else "")
        ),
        pairs(_facts(found)),
        _traceback(found),
        "Open alerts\n" + pairs([(alert.severity, _alert(alert)) for alert in alerts]),
        "Attempts\n"
        + table(
            ("  #", "ATTEMPT", "STATUS", "STEP", "STARTED", "TOOK"),
            [_attempt_row(attempt) for attempt in found.attempts],
        ),
        "Last values\n"
        + pairs(
            [(name, formatting.number(value)) for name, value in sorted(found.metrics.items())]
        ),
        "Events\n" + pairs([(k, f"{n:,}") for k, n in sorted(found.event_counts.items())]),
        "Account\n"
        + pairs(
            [
                ("emitted", f"{sum_of(streams, 'emitted'):,}"),
                ("recorded", f"{sum_of(streams, 'recorded'):,}"),
                ("missing", f"{sum_of(streams, 'gaps'):,}"),
                ("on its way", loss_account.on_its_way(found, sum_of(streams, "lag"), on_its_way)),
                ("recorder", _recorder(on_its_way.recorder)),
                ("hooks", hook_cost(streams)),
            ]
        ),
        "Checkpoints\n" + pairs(_checkpoints(checkpoints, found.id)),
    ]
    typer.echo("\n\n".join(section for section in sections if not section.endswith("\n")))


def sum_of(streams: list[StreamAccount], name: str) -> int:
    """The sum of the field ``name`` of all accounts."""
    return sum(getattr(stream, name) for stream in streams)


def hook_cost(streams: list[StreamAccount]) -> str:
    """The time spent in hooks, for each hook and in total."""
    cost = loss_account.hook_cost(streams)
    if cost is None:
        return "unknown so far"
    return f"{cost.microseconds:.1f} us each, {cost.seconds:.3f} s in all"


def _traceback(run: Run) -> str:
    error = run.error
    if error is None:
        return "\n"
    lines = [printable(line) for line in error.traceback.rstrip().split("\n")]
    return "\n".join((f"Traceback of {error.producer}", *lines))


def _alert(alert: Alert) -> str:
    acknowledged = ", acknowledged" if alert.acknowledged_at else ""
    return f"{alert.summary}  ({alert.rule}, {alert.id}{acknowledged})"


def _recorder(lag: RecorderLag) -> str:
    if not lag.is_known:
        return f"not known: {lag.problem.removesuffix('.')}"
    return f"{lag.amount} behind the broker" if lag.is_behind else "keeps up with the broker"


def _checkpoints(found: Sequence[Checkpoint], run: str) -> list[tuple[str, str]]:
    """The newest ones, in the order saved."""
    lines = [(f"step {one.step}", _checkpoint(one)) for one in found[-CHECKPOINTS_SHOWN:]]
    if more := len(found) - len(lines):
        return [("older", f"{more:,}: `lineside checkpoints {run}` lists them"), *lines]
    return lines


def _checkpoint(checkpoint: Checkpoint) -> str:
    best, pinned, deleted = checkpoint.best, checkpoint.pinned, checkpoint.deleted
    words = (("best", best), ("pinned", pinned), ("gone locally", deleted))
    remarks = [word for word, holds in words if holds]
    if checkpoint.state is not None:
        remarks.append(checkpoint.state)
    return checkpoint.path + (f"  ({', '.join(remarks)})" if remarks else "")


def _facts(run: Run) -> list[tuple[str, str]]:
    facts = [
        ("id", run.id),
        ("project", run.project),
        ("step", step_text(run.step, run.max_steps)),
        ("epoch", formatting.number(run.epoch) if run.epoch is not None else ""),
        ("loss", formatting.number(run.loss.value) if run.loss else ""),
        ("started", local_time(run.started_at)),
        ("ended", local_time(run.ended_at) if run.ended_at else ""),
        ("group", run.group or ""),
        ("tags", ", ".join(run.tags)),
        ("note", run.note or ""),
    ]
    return [(name, value) for name, value in facts if value]


def _attempt_row(attempt: Attempt) -> tuple[str, ...]:
    end = attempt.ended_at or attempt.updated_at
    resumed = f" from step {attempt.resumed_step}" if attempt.resumed_step is not None else ""
    return (
        f"  {attempt.number}",
        attempt.attempt,
        attempt.status + (f" ({attempt.reason})" if attempt.reason else ""),
        step_text(attempt.step, attempt.max_steps) + resumed,
        local_time(attempt.started_at),
        formatting.duration((end - attempt.started_at).total_seconds()),
    )
