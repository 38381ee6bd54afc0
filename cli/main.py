"""The ``lineside`` command: every error of ours becomes one sentence and an exit code."""

from __future__ import annotations

import sys

import typer

from lineside.bus.errors import LinesideError
from lineside.cli import processes

app = typer.Typer(
    name="lineside",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Watch and keep a training run from outside the training process.",
)
processes.register(app)


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except LinesideError as error:
        sys.stderr.write(f"lineside: {error}\n")
        sys.exit(error.exit_code)
