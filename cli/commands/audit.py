"""``lineside audit``: requests, who made them, and their outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lineside.bus.errors import RunNotFound
from lineside.cli.output import JsonOption, local_time, print_json, table, warn
from lineside.cli.run_lookup import open_history

if TYPE_CHECKING:
    from lineside.store.history.records import AuditEntry


def audit(
    run: Annotated[
        str | None, typer.Option(metavar="RUN", help="Only entries about this run.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most this many.")] = 50,
    cursor: Annotated[
        str | None, typer.Option(help="Continue an earlier list: its `next`.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List requests with their issuer and outcome, the newest first."""
    history = open_history()
    try:
        run_id = None if run is None else history.find(run).id
    except RunNotFound:
        run_id = run  # a deleted run keeps its audit entries
    page = history.audit(run=run_id, limit=limit, cursor=cursor)
    if json:
        from lineside.dashboard.api.models import AuditEntry

        items = [AuditEntry.model_validate(found).model_dump(mode="json") for found in page.items]
        print_json({"items": items, "next": page.next})
        return
    if not page.items:
        warn("no entries" + (f" about {run}" if run else " yet"))
        return
    header = ("TIME", "WHO", "ACTION", "TARGET", "OUTCOME", "WHY")
    typer.echo(table(header, [_row(entry) for entry in page.items]))
    if page.next:
        warn(f"more entries: use --limit, or --cursor {page.next}")


def _row(entry: AuditEntry) -> tuple[str, ...]:
    who = f"{entry.who} ({entry.role})" if entry.role else entry.who
    times = f" {entry.count:,} times" if entry.count > 1 else ""
    return (
        local_time(entry.time),
        who or "?",
        entry.action or "?",
        entry.target,
        f"{entry.outcome}{times}",
        entry.why,
    )
