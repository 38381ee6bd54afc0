"""``lineside run`` and ``lineside ship``: a training command, and what its spool still holds."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from lineside.bus.errors import LinesideError, UsageError
from lineside.bus.settings import Settings
from lineside.bus.wording import agree, plural
from lineside.cli.configuration.option import CONFIG_VARIABLE, config_option
from lineside.cli.output import JsonOption, StatusLine, print_json, warn


def run(
    command: Annotated[
        list[str], typer.Argument(metavar="CMD", help="The command as you would type it.")
    ],
    name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
    project: Annotated[str | None, typer.Option(help="Project of the run.")] = None,
    config: Annotated[Path | None, config_option()] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Continue this run (id, its beginning, name, or latest) from its newest whole "
            "checkpoint, which is put where the script looks for it.",
        ),
    ] = None,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over", help="Run the trackers of `report_to` outside of the training process."
        ),
    ] = False,
) -> None:
    """Run a training command with the callback in its Trainers.

    Example: `lineside run -- python train.py --lr 1e-4`. Every Trainer of the command gets
    Lineside's callback, under python, torchrun, accelerate launch and TRL, without a change to the
    script. The exit code is the command's own and is recorded.
    """
    from lineside.emitter.launch.command import launch

    settings = Settings.from_env()
    run_id = settings.run_id if resume is None else _prepare_resume(resume, config, settings)
    settings = dataclasses.replace(
        settings,
        run_id=run_id,
        run_name=name or settings.run_name,
        project=project or settings.project,
        take_over=take_over or settings.take_over,
    )
    raise typer.Exit(launch(command, settings, _training_callbacks(config)))


def _prepare_resume(run: str, config: Path | None, settings: Settings) -> str:
    """Put the newest whole checkpoint of ``run`` in its place; the id of the run."""
    from lineside.cli.checkpoints.archive_source import NamedArchive
    from lineside.cli.checkpoints.resume import place_newest_whole

    resumed = place_newest_whole(run, NamedArchive(None, config), settings.spool)
    warn(f"lineside: {resumed}")
    return resumed.run


def _training_callbacks(config: Path | None) -> list[dict[str, Any]]:
    """The entries of the configuration file with ``where: training``.

    A file that only the variable names keeps no training from starting.
    """
    if config is None:
        return []
    from lineside.cli.configuration.callbacks import load_training_callbacks

    try:
        return [entry.as_mapping() for entry in load_training_callbacks(config)]
    except LinesideError as error:
        if os.environ.get(CONFIG_VARIABLE) != str(config):
            raise
        warn(f"{error}; the training runs without callbacks of {CONFIG_VARIABLE}")
        return []


def ship(
    spool: Annotated[
        Path | None, typer.Option(help="Folder to ship from; default LINESIDE_SPOOL.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Give up after this many seconds.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Send the events of a spool to the broker.

    Ends when the broker has confirmed all of them; exit code 1 if some are left. Ends another
    shipper of the spool whose own broker is another and does not answer.
    """
    from lineside.emitter.shipper.flush import ShipResult
    from lineside.emitter.shipper.flush import ship as ship_spool

    settings = Settings.from_env()
    folder = settings.spool if spool is None else spool.absolute()
    if not folder.is_dir():
        raise UsageError(
            f"there is no spool at {folder}: expected a folder, as LINESIDE_SPOOL names it"
        )
    progress = StatusLine()

    def on_progress(so_far: ShipResult) -> None:
        progress.update(f"{plural(so_far.events, 'event')} shipped, {so_far.left:,} left")

    try:
        shipped = ship_spool(folder, settings.broker, timeout, on_progress)
    finally:
        progress.clear()
    if json:
        print_json(dataclasses.asdict(shipped))
    else:
        by = f" by process {shipped.holder}" if shipped.holder else ""
        missing = f", {plural(shipped.gaps, 'gap')} reported" if shipped.gaps else ""
        typer.echo(
            f"{plural(shipped.events, 'event')} of {plural(shipped.streams, 'stream')} "
            f"shipped{by}{missing}"
            + (
                f", {shipped.left:,} still {agree(shipped.left, 'waits')} in {folder}"
                if shipped.left
                else ""
            )
        )
    if shipped.left:
        raise typer.Exit(1)
