"""``lineside export``: writes a run's points, timing, events or commands to a file."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import IO, Annotated

import typer

from lineside.bus.errors import UsageError
from lineside.cli.output import StatusLine, warn
from lineside.cli.run_lookup import RunArgument, open_engine
from lineside.dashboard.formatting import plural

STDOUT = Path("-")


class Format(str, Enum):
    """Format of a file."""

    csv = "csv"
    jsonl = "jsonl"
    parquet = "parquet"


class ExportKind(str, Enum):
    """Which part of a run is exported."""

    points = "points"
    timing = "timing"
    events = "events"
    commands = "commands"


def export(
    run: RunArgument,
    what: Annotated[
        ExportKind,
        typer.Option(help="Logged values, seconds a step, lifecycle events, or commands."),
    ] = ExportKind.points,
    format: Annotated[
        Format | None, typer.Option(help="By default what the file's name ends in, or csv.")
    ] = None,
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
    # Imported here: both need SQLAlchemy, and open_engine reports that it is missing.
    from lineside.cli import files, rows
    from lineside.store.history.history import History

    run_id = History(engine).find(run).id
    read = {
        ExportKind.points: rows.metric_rows,
        ExportKind.timing: rows.timing_rows,
        ExportKind.events: rows.event_rows,
        ExportKind.commands: rows.command_rows,
    }[what](engine, run_id)
    progress, written = StatusLine(), 0

    def on_progress(done: int) -> None:
        nonlocal written
        written = done
        progress.update(f"{run_id}: {plural(done, read.noun)}")

    with _open_output(output) as out:
        files.WRITERS[chosen.value](read, out, on_progress)
    progress.clear()
    where = "" if output == STDOUT else f" to {output}"
    warn(f"{run_id}: {plural(written, read.noun)} written{where}")


def _format(asked: Format | None, output: Path) -> Format:
    suffix = output.suffix.lower().lstrip(".")
    known = suffix in {kind.value for kind in Format}
    chosen = asked or (Format(suffix) if known else Format.csv)
    if chosen is Format.parquet and output == STDOUT and sys.stdout.isatty():
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
