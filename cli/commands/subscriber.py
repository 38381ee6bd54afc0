"""``lineside subscriber``: a subscriber of the user's own, as a process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lineside.bus.service import configure_logging
from lineside.bus.settings import Settings
from lineside.cli.configuration.option import config_option, load_configuration


def subscriber(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:CLASS|NAME",
            help="A class made from Subscriber, or the name of one in the configuration file.",
        ),
    ],
    config: Annotated[Path | None, config_option()] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "-o", metavar="KEY=VALUE", help="An argument of the class.", show_default=False
        ),
    ] = None,
    name: Annotated[
        str,
        typer.Option(help="Name of the cursor, instead of the class's own.", show_default=False),
    ] = "",
    runs: Annotated[
        list[str] | None,
        typer.Option(metavar="RUN", help="Only runs of this id or name; * fits any characters."),
    ] = None,
    projects: Annotated[
        list[str] | None,
        typer.Option(metavar="PROJECT", help="Only runs of this project; * fits any characters."),
    ] = None,
    on_error: Annotated[
        str,
        typer.Option(help="retry, skip or stop, instead of the class's own.", show_default=False),
    ] = "",
    begin: Annotated[
        str,
        typer.Option(
            "--from",
            help="Where a name that is new begins: start, the default, or live.",
            show_default=False,
        ),
    ] = "",
    check: Annotated[
        bool, typer.Option("--check", help="Only check the class and its options.")
    ] = False,
) -> None:
    """Run a subscriber that you wrote.

    The module is looked for in the current folder, then among installed packages.
    """
    from lineside.subscribers.context import RunFilter
    from lineside.subscribers.handlers import Handlers
    from lineside.subscribers.options import load_class, parse_options
    from lineside.subscribers.service import FROM_START, SubscriberService

    if ":" in target:
        settings, found = Settings.from_env(), load_class(target)
        Handlers(found)
        values = parse_options(found, option or ())
    else:
        from lineside.cli.configuration.subscriber import enter

        configuration = load_configuration(config)
        entered = enter(configuration, target, option or ())
        settings, found, values = entered.settings, entered.target, entered.arguments
        section = configuration.values.subscribers[target]
        name = name or target
        runs = runs or section.runs
        projects = projects or section.projects
        on_error = on_error or section.on_error or ""
        begin = begin or section.begin
    if check:
        return
    service = SubscriberService(
        settings,
        found,
        lambda: found(**values),
        name=name,
        run_filter=RunFilter(runs or (), projects or ()),
        on_error=on_error,
        begin=begin or FROM_START,
    )
    configure_logging()
    service.serve()
