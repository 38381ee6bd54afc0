"""``lineside export``: writes a run's points, timing, events, checkpoints or commands to a file."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from itertools import chain, islice
from operator import attrgetter
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from lineside.bus.errors import UsageError
from lineside.bus.wording import plural
from lineside.cli.files import FLOAT, INTEGER, JSON, TEXT, TIME, WRITERS, Rows
from lineside.cli.output import StatusLine, warn
from lineside.cli.run_lookup import RunArgument, open_engine

if TYPE_CHECKING:
    from lineside.store.history.history import History
    from lineside.store.history.records import Command

STDOUT = Path("-")
ALL_ATTEMPTS = "all"


class Format(str, Enum):
    """Format of a file."""

    csv = "csv"
    spreadsheet = "spreadsheet"
    jsonl = "jsonl"
    parquet = "parquet"


class ExportKind(str, Enum):
    """Which part of a run is exported."""

    points = "points"
    timing = "timing"
    events = "events"
    checkpoints = "checkpoints"
    commands = "commands"


_NOUNS = {
    ExportKind.points: "point",
    ExportKind.timing: "timing",
    ExportKind.events: "event",
    ExportKind.checkpoints: "checkpoint",
    ExportKind.commands: "command",
}


def _curve_columns(name: str, value: str) -> dict[str, str]:
    """The fields of ``PointRow`` in their order, with ``name`` and ``value`` renamed."""
    return {
        "attempt": TEXT,
        "producer": TEXT,
        name: TEXT,
        "step": INTEGER,
        "epoch": FLOAT,
        "time": TIME,
        value: FLOAT,
    }


_COLUMNS = {
    ExportKind.points: _curve_columns("name", "value"),
    ExportKind.timing: _curve_columns("part", "seconds"),
    ExportKind.events: {
        "n": INTEGER,
        "attempt": TEXT,
        "producer": TEXT,
        "seq": INTEGER,
        "kind": TEXT,
        "step": INTEGER,
        "epoch": FLOAT,
        "time": TIME,
        "data": JSON,
    },
    ExportKind.checkpoints: {
        "id": TEXT,
        "attempt": TEXT,
        "step": INTEGER,
        "epoch": FLOAT,
        "time": TIME,
        "path": TEXT,
        "deleted_at": TIME,
        "best": JSON,
        "last": JSON,
        "metrics": JSON,
        "state": TEXT,
        "state_at": TIME,
        "why": TEXT,
        "bytes": INTEGER,
        "files": INTEGER,
        "sent": INTEGER,
        "stored": INTEGER,
        "archive": TEXT,
        "pinned": JSON,
        "keep": JSON,
    },
    ExportKind.commands: {
        "id": TEXT,
        "op": TEXT,
        "args": JSON,
        "reason": TEXT,
        "issued_by": TEXT,
        "requested_at": TIME,
        "expires_at": TIME,
        "state": TEXT,
        "delivered_at": TIME,
        "settled_at": TIME,
        "attempt": TEXT,
        "step": INTEGER,
        "detail": TEXT,
    },
}


def export(
    run: RunArgument,
    what: Annotated[
        ExportKind,
        typer.Option(
            help="Logged values, seconds a step, lifecycle events, checkpoints, or commands."
        ),
    ] = ExportKind.points,
    format: Annotated[
        Format | None,
        typer.Option(
            help="By default what the file's name ends in, or csv. `spreadsheet` is CSV in which "
            "no text is a formula or acts on a terminal: the default there."
        ),
    ] = None,
    attempt: Annotated[
        str,
        typer.Option(
            help="Points and timing of `all` attempts, of one (its name or number), or `stitched`: "
            "without those after a step from which a later attempt resumed."
        ),
    ] = ALL_ATTEMPTS,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write; - is standard output.")
    ] = STDOUT,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a run's history as CSV, JSON Lines or Parquet."""
    chosen = _format(format, output)
    if output != STDOUT and output.is_file() and not force:
        raise UsageError(f"{output} already exists: --force replaces it")
    engine = open_engine()
    # Imported here: it needs SQLAlchemy, and open_engine reports that it is missing.
    from lineside.store.history.history import History

    history = History(engine)
    run_id = history.find(run).id
    rows = _rows(history, run_id, what, attempt)
    progress, written = StatusLine(), 0

    def on_progress(done: int) -> None:
        nonlocal written
        written = done
        progress.update(f"{run_id}: {plural(done, rows.noun)}")

    with _open_output(output) as out:
        WRITERS[chosen.value](rows, out, on_progress)
    progress.clear()
    where = "" if output == STDOUT else f" to {output}"
    warn(f"{run_id}: {plural(written, rows.noun)} written{where}")


def _rows(history: History, run_id: str, what: ExportKind, attempt: str) -> Rows:
    columns = _COLUMNS[what]
    if what in (ExportKind.points, ExportKind.timing):
        kind = "metric" if what is ExportKind.points else "timing"
        points: Iterator[tuple[Any, ...]] = history.iter_points(run_id, kind=kind, attempt=attempt)
        first = list(islice(points, 1))  # which raises any error before there is output
        return Rows(_NOUNS[what], columns, chain(first, points))
    if attempt != ALL_ATTEMPTS:
        raise UsageError(
            f"--attempt {attempt} cannot select {what.value}: it selects points and timing"
        )
    records: Iterator[Any]
    if what is ExportKind.events:
        records = history.iter_events(run_id)
    elif what is ExportKind.checkpoints:
        records = iter(history.checkpoints(run_id))
    else:
        records = _iter_commands(history, run_id)
    return Rows(_NOUNS[what], columns, map(attrgetter(*columns), records))


def _iter_commands(history: History, run_id: str) -> Iterator[Command]:
    cursor = None
    while True:
        page = history.commands(run_id, limit=1000, cursor=cursor)
        yield from page.items
        if page.next is None:
            return
        cursor = page.next


def _format(asked: Format | None, output: Path) -> Format:
    suffix = output.suffix.lower().lstrip(".")
    known = suffix in {kind.value for kind in Format}
    on_terminal = output == STDOUT and sys.stdout.isatty()
    default = Format.spreadsheet if on_terminal else Format.csv
    chosen = asked or (Format(suffix) if known else default)
    if chosen is Format.parquet and on_terminal:
        raise UsageError("Parquet is not for a terminal: give a file with -o FILE")
    return chosen


@contextmanager
def _open_output(output: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes its name only once it is whole; a pipe or device as it is."""
    if output == STDOUT:
        yield sys.stdout.buffer
        return
    if output.exists() and not output.is_file():
        with output.open("wb") as out:
            yield out
        return
    temporary = output.with_name(f".{output.name}.part")
    try:
        with temporary.open("wb") as out:
            yield out
        temporary.replace(output)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
