"""The ``lineside`` command: each of our errors becomes one sentence and an exit code."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from lineside.bus.errors import LinesideError
from lineside.cli.checkpoints import archiver_command
from lineside.cli.checkpoints import command as checkpoints
from lineside.cli.commands import (
    alerts,
    audit,
    backup,
    config,
    control,
    doctor,
    export,
    keys,
    runs,
    services,
    stopper,
    subscriber,
    tail,
    training,
    up,
)
from lineside.cli.upload import command as upload

INTERRUPTED = 130
BROKEN_PIPE = 141

app = typer.Typer(
    name="lineside",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich would double the time that `lineside --help` takes
    context_settings={"help_option_names": ["-h", "--help"]},
)


def register(command: Callable[..., None]) -> None:
    """Register ``command``; an interruption or a system error becomes an exit code."""

    @functools.wraps(command)
    def guarded(*args: object, **options: object) -> None:
        try:
            command(*args, **options)
            sys.stdout.flush()
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            # The reader of our output has left. Python would complain about the rest at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(BROKEN_PIPE)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            _exit(f"{where}{error.strerror or error}", 1)

    app.command(
        context_settings={
            # Options after the first word of a training command belong to that command.
            "allow_interspersed_args": command is not training.run,
            # A negative rate is an invalid rate, not an option.
            "ignore_unknown_options": command is control.set_lr,
        }
    )(guarded)


for _command in (
    up.up,
    config.config,
    up.demo,
    training.run,
    training.ship,
    runs.runs,
    runs.show,
    tail.tail,
    alerts.alerts,
    audit.audit,
    control.stop,
    control.save,
    control.evaluate,
    control.log,
    control.pause,
    control.resume,
    control.set_lr,
    export.export,
    upload.upload,
    doctor.doctor,
    backup.backup,
    backup.restore,
    checkpoints.checkpoints,
    checkpoints.verify,
    checkpoints.pin,
    checkpoints.unpin,
    checkpoints.delete,
    keys.keys,
    services.broker,
    services.recorder,
    services.dashboard,
    services.exporter,
    services.shipper,
    services.sampler,
    services.watchdog,
    services.uploader,
    archiver_command.archiver,
    services.callback_host,
    stopper.stopper,
    subscriber.subscriber,
):
    register(_command)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # slow to import; few commands need it

        typer.echo(f"lineside {version('lineside')}")
        raise typer.Exit


@app.callback()
def lineside(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Monitor and control training runs from outside the training process."""


def main() -> None:
    """Entry point of the console script."""
    try:
        try:
            app()
        except LinesideError as error:  # also of an option that reads a file
            _exit(str(error), error.exit_code)
    except SystemExit as end:
        if "obstore" in sys.modules:
            _end_at_once(end.code)
        raise


def _end_at_once(code: object) -> None:
    """End without Python's own ending.

    A thread of obstore that takes the interpreter's lock during that aborts the process, and the
    exit code is lost. After a failed request one often does.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _exit(sentence: str, code: int) -> None:
    sys.stderr.write(f"lineside: {sentence}\n")
    sys.exit(code)
