"""``lineside run``: a training command with the callback in its Trainers."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from lineside.bus.settings import Settings


def run(
    command: Annotated[
        list[str], typer.Argument(metavar="CMD", help="The command as you would type it.")
    ],
    name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
    project: Annotated[str | None, typer.Option(help="Project of the run.")] = None,
) -> None:
    """Run a training command with the callback in its Trainers.

    Example: `lineside run -- python train.py --lr 1e-4`. Every Trainer of the command gets
    Lineside's callback, under python, torchrun, accelerate launch and TRL, without a change to the
    script. The exit code is the command's own and is recorded.
    """
    from lineside.emitter.launch.command import launch

    settings = Settings.from_env()
    settings = dataclasses.replace(
        settings, run_name=name or settings.run_name, project=project or settings.project
    )
    raise typer.Exit(launch(command, settings))
