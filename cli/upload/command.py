"""``lineside upload``: sends a recorded run to trackers and other callbacks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lineside.bus.errors import UsageError
from lineside.bus.settings import Settings
from lineside.bus.wording import plural
from lineside.cli.configuration.option import config_option, load_configuration
from lineside.cli.output import StatusLine, shorten
from lineside.cli.run_lookup import RunArgument, open_history

if TYPE_CHECKING:
    from lineside.bus.callback_config import CallbackEntry
    from lineside.store.history.records import Attempt, Run
    from lineside.subscribers.callback_host.backfill import Backfill, Progress, RecordedEvents

_BAR = 20  # characters


def upload(
    run: RunArgument,
    to: Annotated[
        list[str],
        typer.Option(
            "--to",
            metavar="NAME|CLASS",
            help="An entry of custom_callbacks in the configuration file by its id or class, or "
            "wandb, tensorboard, mlflow, ..., or another class; several times for several.",
        ),
    ],
    config: Annotated[Path | None, config_option()] = None,
) -> None:
    """Send a recorded run to trackers, as if they had followed it.

    Attempts that were sent before, while they trained or by an earlier upload, are left out, and an
    upload that was interrupted goes on where it was. The store does not keep the hooks of single
    steps (step_begin to step_end, prediction_step), so callbacks do not get these. Commands of
    callbacks are not sent.
    """
    from lineside.subscribers.callback_host.backfill import Backfill

    settings = Settings.from_env()
    entries = [_entry(name, load_configuration(config).callbacks) for name in to]
    found = open_history().find(run)
    for entry in entries:
        _upload(Backfill(settings, entry, found.id), found, settings)


def _entry(name: str, configured: tuple[CallbackEntry, ...]) -> CallbackEntry:
    """The configured entry that ``name`` is the id or class of, or a new one of that class."""
    from lineside.bus.callback_config import TRAINING, parse_entry, with_ids

    new = parse_entry(name) if name not in {one.id for one in configured} else None
    for entry in configured:
        if entry.id == name or (new is not None and entry.class_path == new.class_path):
            if entry.where == TRAINING:
                raise UsageError(
                    f"--to {name}: the entry has `where: training`; expected one that runs outside "
                    "of training, which a recorded run no longer has"
                )
            return entry
    return with_ids([*configured, parse_entry(name, len(configured))])[-1]


def _upload(backfill: Backfill, run: Run, settings: Settings) -> None:
    """Send the ended attempts of ``run`` that are missing."""
    from lineside.subscribers.testing import recorded_run

    name = backfill.entry.id
    ended = [one for one in run.attempts if not one.is_running]
    missing = set(backfill.missing([one.attempt for one in ended]))
    for one in run.attempts:
        if one.is_running:
            typer.echo(f"{name}: attempt {one.number} of {run.id} is running, so it is left out")
        elif one.attempt not in missing:
            typer.echo(f"{name}: attempt {one.number} of {run.id} is already there")
        else:
            skipped = sum(backfill.skipped.values())
            sent = _send(backfill, one, partial(recorded_run, run.id, settings))
            skipped = sum(backfill.skipped.values()) - skipped
            also = f", {skipped:,} skipped because of errors" if skipped else ""
            where = f" (see {backfill.log_path})" if skipped else ""
            events = plural(sent, "event")
            typer.echo(f"{name}: attempt {one.number} of {run.id}: {events} sent{also}{where}")


def _send(backfill: Backfill, attempt: Attempt, events: Callable[[], RecordedEvents]) -> int:
    from lineside.subscribers.callback_host.attempt_end import end_status
    from lineside.subscribers.callback_host.trackers.tracker import RunEnd

    line, last_step = StatusLine(), attempt.step or 0

    def show(progress: Progress) -> None:
        part = min(1.0, progress.step / last_step) if last_step else 0.0
        bar = ("#" * round(part * _BAR)).ljust(_BAR, ".")
        steps = f"step {progress.step:,}/{last_step:,}"
        waiting = f"; {shorten(progress.output, 60)}" if progress.is_waiting else ""
        line.update(f"{backfill.entry.id} [{bar}] {steps}{waiting}")

    ended_at = attempt.ended_at or attempt.updated_at
    end = RunEnd(end_status(attempt.status), None, ended_at.timestamp())
    try:
        return backfill.send(attempt.attempt, events, end, show)
    finally:
        line.clear()
