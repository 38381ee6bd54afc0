"""``lineside subscriber``: a subscriber of the user's own, as a process."""

from __future__ import annotations

from typing import Annotated

import typer

from lineside.bus.service import configure_logging
from lineside.bus.settings import Settings


def subscriber(
    target: Annotated[
        str, typer.Argument(metavar="MODULE:CLASS", help="A class made from Subscriber.")
    ],
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
        str, typer.Option("--from", help="Where a name that is new begins: start or live.")
    ] = "start",
) -> None:
    """Run a subscriber that you wrote.

    The module is looked for in the current folder, then among installed packages.
    """
    from lineside.subscribers.options import load_class, parse_options
    from lineside.subscribers.run_filter import RunFilter
    from lineside.subscribers.service import SubscriberService

    settings = Settings.from_env()
    found = load_class(target)
    arguments = parse_options(found, option or ())
    service = SubscriberService(
        settings,
        found,
        lambda: found(**arguments),
        name=name,
        run_filter=RunFilter(runs or (), projects or ()),
        on_error=on_error,
        begin=begin,
    )
    configure_logging()
    service.serve()
