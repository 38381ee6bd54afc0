"""Requests to the archiver about one checkpoint: ``lineside pin``, ``unpin`` and ``delete``."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from lineside.bus.errors import BusError, LinesideError, ReaderDenied, UsageError
from lineside.bus.protocol.checkpoints import (
    ARCHIVER,
    DELETE,
    PIN,
    STATE_KINDS,
    UNPIN,
    VERIFY,
    CheckpointRequest,
)
from lineside.bus.protocol.messages import LIVE
from lineside.bus.settings import Settings
from lineside.bus.terminal_text import printable
from lineside.cli.checkpoints.archive_source import NamedArchive, find_run
from lineside.cli.checkpoints.catalog import CatalogEntry, at_step, read_catalog
from lineside.cli.output import print_json

if TYPE_CHECKING:
    from lineside.bus.client.command_client import CommandClient

ANSWER_SECONDS = 30.0
"""How long a command waits for the archiver's answer; the request holds after that too."""
_CONNECT_SECONDS = 10.0
_CHECK_SECONDS = 2.0
_DONE = {PIN: "pinned", UNPIN: "unpinned", DELETE: "deleted from the archive"}


class RequestRefused(LinesideError):
    """The archiver did not do what was asked."""


class NotAnswered(LinesideError):
    """The archiver has not answered in time."""


def request(
    op: str,
    run: str,
    step: int,
    attempt: str | None,
    named: NamedArchive,
    *,
    asks: bool,
    wait: bool,
    json: bool,
) -> None:
    """Send a request about the checkpoint of ``run`` at ``step``, and print its answer.

    ``asks``: it asks a person first. The archive is read only if the store does not have the run.

    Raises:
        RequestRefused, NotAnswered: the archiver did not do it, or not yet.
    """
    if asks and not sys.stdin.isatty():
        raise UsageError(f"{op} asks first, and stdin is no terminal: --yes does not ask")
    source = find_run(run, named.open)
    catalog = read_catalog(source.run, source.history, source.archive, attempt)
    known = [entry for entry in catalog if entry.step == step and _is_known(entry)]
    entry = at_step(known or catalog, source.run, step)
    if asks and not _is_confirmed(entry):
        raise RequestRefused("nothing was deleted")
    _send(op, entry, wait, json)


def request_check(entries: Sequence[CatalogEntry]) -> None:
    """Have the archiver read ``entries`` back, which were found damaged, so that it reports them.

    Does nothing without a store that has them, or where no broker takes the requests.
    """
    from lineside.bus.client.command_client import CommandClient

    known = [entry for entry in entries if entry.record is not None]
    if known:
        with (
            contextlib.suppress(BusError, UsageError),
            CommandClient(Settings.from_env().broker) as client,
        ):
            for entry in known:
                request = CheckpointRequest(VERIFY, entry.path, entry.attempt, entry.step)
                client.respond(entry.run, request, timeout=_CHECK_SECONDS)


def _is_known(entry: CatalogEntry) -> bool:
    """Whether the archiver has it, or is to archive it: of two attempts maybe only one's is."""
    return entry.is_archived or (entry.record is not None and entry.record.awaits_archive)


def _is_confirmed(entry: CatalogEntry) -> bool:
    sys.stderr.write(
        f"Delete step {entry.step:,} of {entry.run} from the archive? It cannot be undone. [y/N] "
    )
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _send(op: str, entry: CatalogEntry, wait: bool, json: bool) -> None:
    from lineside.bus.client.command_client import CommandClient

    request = CheckpointRequest(op, entry.path, entry.attempt, entry.step)
    address = Settings.from_env().broker
    with CommandClient(address) as client:
        if wait:
            answer = _ask(client, address, entry.run, request)
            refused = answer.get("refused")
            state = "refused" if refused else "done"
        else:
            client.respond(entry.run, request)
            refused, state = None, "requested"
    if json:
        facts = {"run": entry.run, "attempt": entry.attempt, "step": entry.step}
        print_json({"id": request.id, "op": op, **facts, "state": state, "why": refused})
    checkpoint = f"step {entry.step:,} of {entry.run}"
    if refused:
        raise RequestRefused(f"{checkpoint} was not {_DONE[op]}: {printable(str(refused))}")
    if not json:
        typer.echo(f"{checkpoint}: {_DONE[op] if wait else f'{op} is requested'}")


def _ask(
    client: CommandClient, address: str, run: str, request: CheckpointRequest
) -> Mapping[str, Any]:
    """Send ``request`` and return the data of the state that answers it."""
    from lineside.bus.client.reader import Reader

    with Reader(address, start=LIVE, streams=[f"{run}/{ARCHIVER}"]) as reader:
        try:
            reader.wait_connected(_CONNECT_SECONDS)
            client.respond(run, request)
            until = time.monotonic() + ANSWER_SECONDS
            while (left := until - time.monotonic()) > 0:
                batch = reader.poll(left)
                for event in batch.events if batch else ():
                    data = event.data or {}
                    if event.kind in STATE_KINDS and data.get("request") == request.id:
                        return data
                if batch:
                    reader.commit(batch.offset)
        except ReaderDenied as error:
            raise ReaderDenied(f"{error}; --no-wait sends the request alone") from error
    raise NotAnswered(
        f"the archiver has not answered within {ANSWER_SECONDS:g} s. The request waits for it in "
        f"the journal; `lineside checkpoints {run}` shows what became of it"
    )
