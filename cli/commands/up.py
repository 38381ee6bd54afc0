"""``lineside up`` and ``lineside demo``: a stack in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lineside.bus.settings import DASHBOARD_PORT, Settings
from lineside.cli.checkpoints.archiver_command import ArchiveOption
from lineside.cli.commands.services import (
    HostOption,
    ListenOption,
    PortOption,
    TokensOption,
    TrackersOption,
)
from lineside.cli.configuration.option import config_option, load_configuration


def up(
    config: Annotated[Path | None, config_option("broker", "dashboard")] = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = DASHBOARD_PORT,
    tokens: TokensOption = False,
    listen: ListenOption = "",
    to: TrackersOption = None,
    archive: ArchiveOption = "",
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Do not print the processes' log lines.")
    ] = False,
) -> None:
    """Run broker, recorder, dashboard, watchdog, callback host and sampler in the foreground.

    The sampler runs where the extra `system` is installed, a stopper if there are rules, an
    archiver if there is an archive, and subscribers if the configuration file has some. A process
    that ends is restarted. Ctrl-C or SIGTERM ends them all.
    """
    from lineside.cli.output import warn
    from lineside.cli.stack.packages import check_packages
    from lineside.cli.stack.stack import Stack
    from lineside.cli.stack.up_service import UpService

    check_packages()
    options = {"host": host, "port": port, "tokens": tokens, "listen": listen}
    configuration = load_configuration(config).with_options(options).with_trackers(to or ())
    configuration = configuration.with_archive(archive)
    stack = Stack(Settings.from_env(), configuration, report=warn)
    UpService(stack, quiet=quiet).serve()


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
