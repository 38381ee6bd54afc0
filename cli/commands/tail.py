"""``lineside tail``: prints events as they arrive over the bus."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from lineside.bus.protocol.event_kinds import ALERT, COUNTED, KINDS, event_kind
from lineside.bus.protocol.events import Event, Gap, Stream
from lineside.bus.settings import Settings
from lineside.bus.terminal_text import printable
from lineside.bus.wording import did_you_mean
from lineside.cli.output import JsonOption, print_json, warn
from lineside.cli.run_lookup import resolve_run
from lineside.dashboard import formatting

if TYPE_CHECKING:
    from lineside.bus.client.reader import Batch

CONNECT_SECONDS = 4.0  # shorter than the reader's own warning
_ALL = "all"
_ALTERNATIVE = "or leave out RUN to read all runs without a store"


def tail(
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="A run's id, its beginning, a name, or latest."),
    ] = None,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Start at the oldest event in the journal.")
    ] = False,
    kinds: Annotated[
        str,
        typer.Option(
            help="Only these kinds of event, as log,evaluate; or all. "
            "Default: all but step events and heartbeats."
        ),
    ] = "",
    json: JsonOption = False,
) -> None:
    """Print events as they happen, until Ctrl-C."""
    from lineside.bus.client.reader import Reader
    from lineside.bus.protocol.messages import LIVE, START

    is_wanted = _kind_filter(kinds)
    settings = Settings.from_env()
    streams = (resolve_run(run, _ALTERNATIVE)[0],) if run is not None else ()
    start = START if from_start else LIVE
    with Reader(settings.broker, start=start, streams=streams) as reader:
        reader.wait_connected(CONNECT_SECONDS)
        while True:
            batch = reader.poll(1.0)
            if batch is None:
                continue
            for stream, item in _in_order(batch):
                if isinstance(item, Event) and not is_wanted(item.kind):
                    continue
                if json:
                    print_json(to_document(stream, item), indent=None)
                else:
                    typer.echo(printable(format_line(stream, item, one_run=run is not None)))
            reader.commit(batch.offset)


def format_line(stream: Stream | None, item: Event | Gap, *, one_run: bool = False) -> str:
    """One event or gap as a line; with ``one_run`` it names the producer only."""
    where = "the journal"
    if stream is not None:
        where = stream.producer if one_run else f"{stream.run}/{stream.producer}"
    if isinstance(item, Gap):
        return f"{'':8}  {where}  gap: {item.count:,} missing, from {item.first:,}"
    clock = time.strftime("%H:%M:%S", time.localtime(item.time))
    return f"{clock}  {where}  {item.kind}  step {item.step}{_summary(item)}"


def to_document(stream: Stream | None, item: Event | Gap) -> dict[str, object]:
    """One event or gap as a JSON document."""
    stream_fields = stream._asdict() if stream else {"run": None, "producer": None, "attempt": None}
    if isinstance(item, Gap):
        return {**stream_fields, "kind": None, "gap": {"first": item.first, "end": item.end}}
    return {**stream_fields, **{f.name: getattr(item, f.name) for f in dataclasses.fields(item)}}


def _kind_filter(text: str) -> Callable[[str], bool]:
    """Which kinds ``--kinds`` asks for."""
    wanted = {name.strip() for name in text.split(",")} - {""}
    if not wanted:
        return lambda kind: event_kind(kind).timeline != COUNTED
    for name in sorted(wanted - KINDS.keys() - {_ALL}):
        similar = did_you_mean(name, [*KINDS, _ALL])
        warn(f"--kinds: {name} is no kind of Lineside's, only a script's{similar}")
    return lambda kind: kind in wanted or _ALL in wanted


def _in_order(batch: Batch) -> Iterator[tuple[Stream | None, Event | Gap]]:
    """Events and gaps by seq; journal gaps have no events beside them."""
    both: list[Event | Gap] = [*batch.gaps, *batch.events]
    both.sort(key=lambda item: item.seq if isinstance(item, Event) else item.first)
    return ((batch.stream, item) for item in both)


def _summary(event: Event) -> str:
    data = event.data or {}
    if event.kind == ALERT:
        words = [str(data[name]) for name in ("state", "rule") if data.get(name)]
        return f"  {' '.join(words)}: {data.get('summary') or data.get('why') or ''}"
    values = data.get(event_kind(event.kind).summary, {})
    if isinstance(values, dict):
        parts = [
            f"{name} {formatting.number(value)}"
            for name, value in values.items()
            if isinstance(value, (int, float)) and name != "epoch"
        ]
        return "".join(f"  {item}" for item in parts)
    return ""
