"""``lineside demo``: a training beside a whole stack, with an account at the end."""

from __future__ import annotations

from typing import Annotated

import typer


def demo(
    seconds: Annotated[
        float,
        typer.Option(min=5, max=3600, help="Seconds to train until the demo stops it, about."),
    ] = 75,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack up until Ctrl-C.")] = False,
) -> None:
    """Train a small GPT-2 beside its own stack, and send it commands.

    Prints an account of the commands, the events emitted and recorded, and their cost. On a
    terminal the page stays up for a minute after that, or until Ctrl-C.

    Its home is .lineside/demo in this folder, or demo in LINESIDE_HOME if that is set. Exit code 1
    if training failed or an event was lost.
    """
    from lineside.cli.demo.demo_run import DemoRun, demo_settings

    demo_run = DemoRun(demo_settings(), seconds=seconds, keep=keep)
    demo_run.serve()
    if not demo_run.succeeded:
        raise typer.Exit(1)
