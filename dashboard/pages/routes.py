"""Routes of the HTML pages. Open pages fetch parts of themselves again; see static/html.js."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from lineside.bus.auth.roles import ADMIN, CONTROL, Principal
from lineside.bus.protocol.commands import APPLIED
from lineside.dashboard import formatting, loss_account
from lineside.dashboard.api.parameters import MAX_INT64, Sort, Statuses
from lineside.dashboard.auth.caller import caller, denial_reason
from lineside.dashboard.backend.archive_access import ArchiveAccess
from lineside.dashboard.backend.store_access import StoreAccess
from lineside.dashboard.backend.transit_reader import TransitReader
from lineside.dashboard.pages import (
    alerts,
    checkpoints,
    controls,
    run_overview,
    sections,
    timeline,
)
from lineside.dashboard.pages.renderer import Renderer
from lineside.dashboard.transit import Transit, add_spool
from lineside.store.history.curves.records import Series
from lineside.store.history.history import MAX_LIMIT, History
from lineside.store.history.records import RUN_STATUSES, Run

PAGE_SIZE = 50
TIMELINE_LENGTH = 100
"""Events of a timeline fetched at once."""
_MAX_VALUES = 200  # that are no numbers; the events have the others
_MAX_ATTEMPTS_CHARTED = 8
ListedOption = Annotated[Literal["all"] | None, Query()]
"""Whether all checkpoints of a run are listed; else the newest."""
SORTS = {
    "-started_at": "newest first",
    "started_at": "oldest first",
    "-updated_at": "last updated first",
    "name": "by name",
    "project": "by project",
    "status": "by status",
    "-step": "most steps first",
}


def router(
    store: StoreAccess, renderer: Renderer, transit: TransitReader, archive: ArchiveAccess
) -> APIRouter:
    """The run list, the run page, and its parts."""
    routes = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

    @routes.get("/")
    def run_list(
        request: Request,
        status: Statuses,
        project: str | None = None,
        search: Annotated[str | None, Query(max_length=200)] = None,
        tag: str | None = None,
        group: str | None = None,
        sort: Sort = "-started_at",
        cursor: str | None = None,
    ) -> HTMLResponse:
        query = {
            "statuses": status,
            "project": project or None,
            "search": (search or "").strip() or None,
            "tag": tag or None,
            "group": group or None,
            "sort": sort,
            "cursor": cursor,
        }
        revision = store.history.revision()  # before the content: the live stream misses nothing
        context = _list_context(store.history, query)
        opened = alerts.open_alerts(store.history.alerts, caller(request), alerts.SHOWN_ON_LIST)
        return renderer.page(
            request,
            "runs.html",
            section="runs",
            revision=revision,
            files_set_aside=store.files_set_aside(),
            **context,
            **opened,
        )

    @routes.get("/runs/{run_id}")
    def run_page(request: Request, run_id: str, checkpoints: ListedOption = None) -> HTMLResponse:
        history, principal = store.history, caller(request)
        revision = history.revision()  # before the content: the live stream misses nothing
        run = history.run(run_id)
        attempts = [
            {
                "attempt": attempt.attempt,
                "number": attempt.number,
                "started": f"{attempt.started_at:%Y-%m-%d %H:%M} UTC",
            }
            for attempt in run.attempts
        ]
        return renderer.page(
            request,
            "run.html",
            revision=revision,
            attempts=attempts,
            configuration=sections.configuration(history.configuration(run_id)),
            no_edit=denial_reason(principal, "Editing", CONTROL),
            no_delete=denial_reason(principal, "Deleting", ADMIN),
            **_parts_context(
                history, run, principal, transit.transit(run_id), archive, checkpoints
            ),
            **_timeline_context(history, run, timeline.HIDDEN_BY_DEFAULT),
        )

    # Relative links in parts need the depth of the page that shows them.
    @routes.get("/parts/{run_id}")
    def run_parts(
        request: Request,
        run_id: str,
        checkpoints: ListedOption = None,
        seen: Annotated[str | None, Query(max_length=100)] = None,
    ) -> HTMLResponse:
        history = store.history
        run = history.run(run_id)
        parts = _parts_context(
            history, run, caller(request), transit.transit(run_id), archive, checkpoints
        )
        return renderer.page(request, "run_parts.html", seen=seen, **parts)

    @routes.get("/timeline/{run_id}")
    def run_timeline(
        request: Request,
        run_id: str,
        hide: str | None = None,
        after: Annotated[int | None, Query(ge=0, le=MAX_INT64)] = None,
        before: Annotated[int | None, Query(ge=0, le=MAX_INT64)] = None,
    ) -> HTMLResponse:
        history = store.history
        hidden = timeline.HIDDEN_BY_DEFAULT if hide is None else frozenset(hide.split(","))
        entries = _timeline_context(history, history.run(run_id), hidden, after, before)
        return renderer.page(request, "run_timeline_page.html", **entries)

    return routes


def _list_context(history: History, query: dict[str, Any]) -> dict[str, Any]:
    page = history.runs(**query, limit=PAGE_SIZE)
    filters = {name: query[name] for name in ("project", "search", "tag", "group")}
    counts = history.counts(**filters)

    def link(**changed: Any) -> str:
        merged = {**query, **changed}
        if merged["sort"] == "-started_at":
            merged["sort"] = None
        given = {
            "status" if name == "statuses" else name: value
            for name, value in merged.items()
            if value
        }
        return f"?{urlencode(given, doseq=True)}" if given else ""

    return {
        "runs": [_run_row(run) for run in page.items],
        "next": page.next,
        "counts": counts,
        "listed": sum(counts.get(status, 0) for status in query["statuses"] or counts),
        "projects": history.projects(),
        "statuses": RUN_STATUSES,
        "query": {**query, "limit": PAGE_SIZE},
        "filtered": any((*filters.values(), query["statuses"], query["cursor"])),
        "sorts": list(SORTS.items()),
        "sort_label": SORTS.get(query["sort"], query["sort"]),
        "link": link,
    }


def _run_row(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "name": run.name,
        "project": run.project,
        "status": run.status,
        "phase": run.phase,
        "reason": run.reason or formatting.STATUS_MEANING[run.status],
        "attempts": len(run.attempts),
        "tags": run.tags,
        "group": run.group,
        "step": run.step,
        "max_steps": run.max_steps,
        "percent": run_overview.percent(run.step, run.max_steps),
        "loss": run.loss,
        "started_at": run.started_at,
        "until": run.ended_at or (None if run.is_running else run.updated_at),
    }


def _parts_context(
    history: History,
    run: Run,
    principal: Principal | None,
    transit: Transit,
    archive: ArchiveAccess,
    listed: str | None,
) -> dict[str, Any]:
    """The parts of a run's page that change while it runs, for ``principal``."""
    now = datetime.now(timezone.utc)
    saved = history.checkpoints(run.id)
    evaluations = history.events(run.id, kinds=["evaluate"], limit=1000, with_data=False).items
    streams = add_spool(history.streams(run.id), transit)
    summary = loss_account.summarize(run, streams, transit)
    commands = history.commands(run.id, limit=MAX_LIMIT).items
    series = _newest_series(history, run)
    charted = sections.most_important(series)
    groups, singles = sections.charts(charted, is_running=run.is_running)
    numbers = {attempt.attempt: attempt.number for attempt in run.attempts}
    unknown = run.attempts[-1].attempt if loss_account.unknown_since(run, transit) else None
    return {
        "run": run,
        "now": now,
        **alerts.open_alerts(history.alerts, principal, alerts.SHOWN_ON_RUN, run.id),
        "facts": run_overview.facts(run, now, commands),
        "line": run_overview.progress_line(run, saved, evaluations),
        "groups": groups,
        "singles": singles,
        "logged_values": history.logged_values(run.id)[:_MAX_VALUES],
        "metrics_left_out": len(series) - len(charted),
        "marks": len(saved) + len(evaluations) + run.event_counts.get(APPLIED, 0),
        "controls": controls.controls(history, run, denial_reason(principal, "Steering", CONTROL)),
        "commands": [
            controls.command_row(command, now) for command in commands[: controls.COMMANDS_SHOWN]
        ],
        "has_older_commands": len(commands) > controls.COMMANDS_SHOWN,
        "many_attempts": len(run.attempts) > 1,
        **checkpoints.panel(
            run, saved, principal, archive.unavailable_reason, show_all=listed is not None
        ),
        "account": summary,
        "streams": [
            {
                "record": stream,
                "number": numbers.get(stream.attempt, "?"),
                "lag": formatting.NO_VALUE
                if stream.attempt == unknown and not stream.lag
                else formatting.number(stream.lag),
                "cost": loss_account.hook_cost([stream], run.attempts) or formatting.NO_VALUE,
            }
            for stream in streams
        ],
    }


def _newest_series(history: History, run: Run) -> list[Series]:
    """Each metric of each producer once: of the newest attempt that logged it."""
    found: dict[tuple[str, str], Series] = {}
    for attempt in run.attempts[-_MAX_ATTEMPTS_CHARTED:]:
        for series in history.metrics(run.id, attempt.attempt):
            found[series.producer, series.name] = series
    return list(found.values())


def _timeline_context(
    history: History,
    run: Run,
    hidden: frozenset[str],
    after: int | None = None,
    before: int | None = None,
) -> dict[str, Any]:
    counts = dict(run.event_counts)
    for kind in timeline.PARTLY_LISTED_KINDS & counts.keys():
        listed = history.events(run.id, kinds=[kind], limit=MAX_LIMIT, with_data=False)
        counts[kind] = len(listed.items)
    kinds = timeline.kinds(counts, hidden)
    shown = [kind.name for kind in kinds if kind.shown]
    if after is not None:
        page = history.events(run.id, after=after, kinds=shown, limit=TIMELINE_LENGTH)
        rows = page.items[::-1]
    else:
        page = history.events(
            run.id,
            before=MAX_INT64 if before is None else before,
            kinds=shown,
            limit=TIMELINE_LENGTH,
        )
        rows = page.items
    return {
        "kinds": kinds,
        "hidden": ",".join(sorted(hidden)),
        "timeline": [timeline.entry(row, run.started_at) for row in rows],
        "more": after is None and page.next is not None,
        "partial": after is not None or before is not None,
    }
