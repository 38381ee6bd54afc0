"""``lineside export``: a run's points, timing, events or commands as a file."""

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
from lineside.cli.commands.runs import RunArgument, open_engine
from lineside.cli.output import Progress, warn
from lineside.dashboard.words import plural

STDOUT = Path("-")


class Format(str, Enum):
    """What a file can be."""

    csv = "csv"
    jsonl = "jsonl"
    parquet = "parquet"


class What(str, Enum):
    """What of a run can be exported."""

    points = "points"
    timing = "timing"
    events = "events"
    commands = "commands"


def export(
    run: RunArgument,
    what: Annotated[
        What, typer.Option(help="Logged values, seconds a step, lifecycle events, or commands.")
    ] = What.points,
    format: Annotated[
        Format | None, typer.Option(help="By default what the file's name ends in, or csv.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write; - is standard output.")
    ] = STDOUT,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the file if it is there.")
    ] = False,
) -> None:
    """Write a run's history as CSV, JSON Lines or Parquet."""
    chosen = _format(format, output)
    if output != STDOUT and output.is_file() and not force:
        raise UsageError(f"{output} is already there: --force replaces it")
    engine = open_engine()
    # Only now: what follows needs SQLAlchemy, and open_engine says so in a sentence.
    from lineside.cli import files, rows
    from lineside.store.history.reads import History

    run_id = History(engine).find(run).id
    read = {
        What.points: rows.metric_rows,
        What.timing: rows.timing_rows,
        What.events: rows.event_rows,
        What.commands: rows.command_rows,
    }[what](engine, run_id)
    progress, written = Progress(), 0

    def counted(done: int) -> None:
        nonlocal written
        written = done
        progress.say(f"{run_id}: {plural(done, read.noun)}")

    with _opened(output) as out:
        files.WRITERS[chosen.value](read, out, counted)
    progress.done()
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
def _opened(output: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes its name only once it is whole; a pipe or device as it is."""
    if output == STDOUT:
        yield sys.stdout.buffer
        return
    if output.exists() and not output.is_file():
        with output.open("wb") as out:
            yield out
        return
    draft = output.with_name(f".{output.name}.part")
    try:
        with draft.open("wb") as out:
            yield out
        draft.replace(output)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
