"""``lineside runs`` and ``lineside show``: the history at the command line."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lineside.bus.errors import MissingExtra, StoreError, UsageError
from lineside.bus.protocol.events import is_run_id
from lineside.bus.settings import Settings
from lineside.bus.text import printable
from lineside.cli.output import JsonOption, pairs, print_json, table, warn
from lineside.dashboard import formatting

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from lineside.store.history.history import History
    from lineside.store.history.records import Attempt, Run, StreamAccount

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="Id of a run, its beginning, a name, or latest.")
]
LOSSES = ("loss", "train_loss", "eval_loss")


def open_engine() -> Engine:
    """The store that the settings name.

    Raises:
        MissingExtra: SQLAlchemy is not installed.
        StoreError: it cannot be read.
    """
    from lineside.store.database.engine import open_store

    return open_store(Settings.from_env().store)


def open_history() -> History:
    """The store that the settings name, for reading; raises as ``open_engine`` does."""
    engine = open_engine()
    from lineside.store.history.history import History

    return History(engine)


def has_store(settings: Settings) -> bool:
    """Whether there is a store here, be it a broken one: in the home, or in ``LINESIDE_STORE``."""
    default = Settings.from_env({"LINESIDE_HOME": str(settings.home)}).store
    return settings.store != default or Path(default.removeprefix("sqlite:///")).exists()


def resolve_run(run: str, alternative: str) -> tuple[str, Run | None]:
    """The id of the run that a person means, and what is known of it. Without a store here, as on
    another machine than the broker's, or without what reads it, ``run`` must be an id, and nothing
    is known. ``alternative`` tells what can be done without asking a store.

    Raises:
        RunNotFound: nothing fits.
        UsageError: several runs do, or it is no id and there is no store to ask.
        StoreError: there is a store here, which cannot be read.
    """
    try:
        found = open_history().find(run)
    except (StoreError, MissingExtra) as error:
        if isinstance(error, StoreError) and has_store(Settings.from_env()):
            raise StoreError(f"{error}; {alternative}") from error
        if run == "latest" or not is_run_id(run):
            raise UsageError(f"{error}; or give a run's whole id, not {run!r}") from error
        warn(f"{run!r} cannot be looked up here: taken as a run's id")
        return run, None
    return found.id, found


def runs(
    search: Annotated[
        str | None, typer.Argument(help="Only runs with this in id, name, project, note or tags.")
    ] = None,
    status: Annotated[
        str | None, typer.Option(help="Only runs of this status, as running or failed.")
    ] = None,
    project: Annotated[str | None, typer.Option(help="Only runs of this project.")] = None,
    sort: Annotated[
        str,
        typer.Option(
            help="started_at, ended_at, updated_at, name, project, status or step; - reverses."
        ),
    ] = "-started_at",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most this many.")] = 20,
    cursor: Annotated[
        str | None, typer.Option(help="Go on after an earlier list: its `next`.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List runs, the newest first."""
    page = open_history().runs(
        status=status, project=project, search=search, sort=sort, limit=limit, cursor=cursor
    )
    if json:
        from lineside.dashboard.api.models import Run

        items = [Run.model_validate(run).model_dump(mode="json") for run in page.items]
        print_json({"items": items, "next": page.next})
        return
    if not page.items:
        warn("no runs" + (" that fit" if search or status or project else " yet"))
        return
    now = datetime.now(timezone.utc)
    header = ("RUN", "NAME", "PROJECT", "STATUS", "STEP", "LOSS", "STARTED", "TOOK")
    typer.echo(table(header, [_row(run, now) for run in page.items], right=(4, 5, 7)))
    if page.next:
        warn(f"there are more: --limit, or --cursor {page.next}")


def show(run: RunArgument, json: JsonOption = False) -> None:
    """Tell what is known of one run."""
    history = open_history()
    found = history.find(run)
    streams = history.streams(found.id)
    checkpoints = history.checkpoints(found.id)
    if json:
        from lineside.dashboard.api import models

        document = models.Run.model_validate(found).model_dump(mode="json")
        document["streams"] = [
            models.Stream.model_validate(s).model_dump(mode="json") for s in streams
        ]
        document["checkpoints"] = [
            models.Checkpoint.model_validate(c).model_dump(mode="json") for c in checkpoints
        ]
        print_json(document)
        return
    account = found.loss_account
    sections = [
        printable(
            f"{found.name}  ({found.status})" + (f": {found.reason}" if found.reason else "")
        ),
        pairs(_facts(found)),
        _traceback(found),
        "Attempts\n"
        + table(
            ("  #", "ATTEMPT", "STATUS", "STEP", "STARTED", "TOOK"),
            [_attempt(attempt) for attempt in found.attempts],
        ),
        "Last values\n"
        + pairs(
            [(name, formatting.number(value)) for name, value in sorted(found.metrics.items())]
        ),
        "Events\n" + pairs([(k, f"{n:,}") for k, n in sorted(found.event_counts.items())]),
        "Account\n"
        + pairs(
            [
                ("emitted", f"{account.emitted:,}"),
                ("recorded", f"{account.recorded:,}"),
                ("missing", f"{account.gaps:,}"),
                ("on its way", f"{account.lag:,}"),
                ("hooks", hook_cost(streams)),
            ]
        ),
        "Checkpoints\n"
        + pairs([(f"step {c.step}", c.path + ("  (best)" if c.best else "")) for c in checkpoints]),
    ]
    typer.echo("\n\n".join(section for section in sections if not section.endswith("\n")))


def hook_cost(streams: list[StreamAccount]) -> str:
    """What the hooks took in the training processes, by event and by hook."""
    spent = sum(stream.hook_ns or 0 for stream in streams)
    hooks = sum(stream.hooks or 0 for stream in streams)
    if not hooks:
        return "not known yet"
    return f"{spent / hooks / 1000:.1f} us each, {spent / 1e9:.3f} s in all"


def _traceback(run: Run) -> str:
    error = run.error
    if error is None:
        return "\n"
    lines = [printable(line) for line in error.traceback.rstrip().split("\n")]
    return "\n".join((f"Traceback of {error.producer}", *lines))


def _row(run: Run, now: datetime) -> tuple[str, ...]:
    loss = next((run.metrics[name] for name in LOSSES if name in run.metrics), None)
    end = run.ended_at or run.updated_at
    return (
        run.id,
        run.name if run.name != run.id else "",
        run.project,
        f"{run.status} (paused)" if run.phase == "paused" else run.status,
        _step(run.step, run.max_steps),
        formatting.number(loss) if loss is not None else "",
        formatting.ago(run.started_at, now),
        formatting.duration((end - run.started_at).total_seconds()),
    )


def _facts(run: Run) -> list[tuple[str, str]]:
    facts = [
        ("id", run.id),
        ("project", run.project),
        ("step", _step(run.step, run.max_steps)),
        ("epoch", formatting.number(run.epoch) if run.epoch is not None else ""),
        ("started", local_time(run.started_at)),
        ("ended", local_time(run.ended_at) if run.ended_at else ""),
        ("tags", ", ".join(run.tags)),
        ("note", run.note or ""),
    ]
    return [(name, value) for name, value in facts if value]


def _attempt(attempt: Attempt) -> tuple[str, ...]:
    end = attempt.ended_at or attempt.updated_at
    resumed = f" from step {attempt.resumed_step}" if attempt.resumed_step is not None else ""
    return (
        f"  {attempt.number}",
        attempt.attempt,
        attempt.status + (f" ({attempt.reason})" if attempt.reason else ""),
        _step(attempt.step, attempt.max_steps) + resumed,
        local_time(attempt.started_at),
        formatting.duration((end - attempt.started_at).total_seconds()),
    )


def _step(step: int | None, of: int | None) -> str:
    if step is None:
        return ""
    return f"{step:,}/{of:,}" if of and of > 0 else f"{step:,}"


def local_time(time: datetime) -> str:
    """``2026-11-21 08:26:53`` in this machine's time."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
