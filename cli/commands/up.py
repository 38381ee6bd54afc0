"""``lineside up``: the stack in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lineside.bus.settings import DASHBOARD_PORT, Settings
from lineside.cli.commands.services import (
    HostOption,
    ListenOption,
    PortOption,
    TokensOption,
)
from lineside.cli.configuration.option import config_option, load_configuration


def up(
    config: Annotated[Path | None, config_option("broker", "dashboard")] = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = DASHBOARD_PORT,
    tokens: TokensOption = False,
    listen: ListenOption = "",
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Do not print the processes' log lines.")
    ] = False,
) -> None:
    """Run broker, recorder and dashboard in the foreground.

    A stopper runs with them if there are rules, and subscribers if the configuration file has some.
    A process that ends is restarted. Ctrl-C or SIGTERM ends them all.
    """
    from lineside.cli.output import warn
    from lineside.cli.stack.packages import check_packages
    from lineside.cli.stack.stack import Stack
    from lineside.cli.stack.up_service import UpService

    check_packages()
    options = {"host": host, "port": port, "tokens": tokens, "listen": listen}
    configuration = load_configuration(config).with_options(options)
    stack = Stack(Settings.from_env(), configuration, report=warn)
    UpService(stack, quiet=quiet).serve()
