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
    name: Annotated[str | None, typer.Option(help="What to call the run.")] = None,
    project: Annotated[str | None, typer.Option(help="The project it belongs to.")] = None,
) -> None:
    """Run a training command, its Trainers watched.

    As `lineside run -- python train.py --lr 1e-4`. It puts Lineside's callback into every Trainer
    that the command makes, under python, torchrun, accelerate launch and TRL; nothing in the script
    is changed. The exit code is the command's own, and it is recorded.
    """
    from lineside.emitter.launch.command import launch

    settings = Settings.from_env()
    settings = dataclasses.replace(
        settings, run_name=name or settings.run_name, project=project or settings.project
    )
    raise typer.Exit(launch(command, settings))
