"""``lineside runs``: the list of runs."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated

import typer

from lineside.cli.output import JsonOption, print_json, step_text, table, warn
from lineside.cli.run_lookup import open_history_and_transit
from lineside.dashboard import formatting

if TYPE_CHECKING:
    from lineside.store.history.records import Run


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
    """List runs, the newest first."""
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
    typer.echo(table(header, [_row(run, now) for run in page.items], right=(4, 5, 7)))
    if page.next:
        warn(f"more runs: use --limit, or --cursor {page.next}")


def _row(run: Run, now: datetime) -> tuple[str, ...]:
    end = run.ended_at or run.updated_at
    return (
        run.id,
        run.name if run.name != run.id else "",
        run.project,
        f"{run.status} (paused)" if run.phase == "paused" else run.status,
        step_text(run.step, run.max_steps),
        formatting.number(run.loss.value) if run.loss else "",
        formatting.ago(run.started_at, now),
        formatting.duration((end - run.started_at).total_seconds()),
    )
