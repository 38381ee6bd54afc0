"""Finds the run that a person names at the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lineside.bus.errors import MissingExtra, StoreError, UsageError
from lineside.bus.protocol.events import is_run_id
from lineside.bus.settings import Settings
from lineside.cli.output import warn

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from lineside.store.history.history import History
    from lineside.store.history.records import Run

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="Id of a run, its beginning, a name, or latest.")
]


def open_engine() -> Engine:
    """The store that the settings name.

    Raises:
        MissingExtra: SQLAlchemy is not installed.
        StoreError: it cannot be read.
    """
    from lineside.store.database.engine import open_store

    return open_store(Settings.from_env().store)


def open_history() -> History:
    """The store that the settings name, for reading; raises as ``open_engine`` does."""
    engine = open_engine()
    from lineside.store.history.history import History

    return History(engine)


def has_store(settings: Settings) -> bool:
    """Whether there is a store here, be it a broken one: in the home, or in ``LINESIDE_STORE``."""
    default = Settings.from_env({"LINESIDE_HOME": str(settings.home)}).store
    return settings.store != default or Path(default.removeprefix("sqlite:///")).exists()


def resolve_run(run: str, alternative: str) -> tuple[str, Run | None]:
    """The id of the run that a person means, and what is known of it. Without a store here, as on
    another machine than the broker's, or without what reads it, ``run`` must be an id, and nothing
    is known. ``alternative`` tells what can be done without asking a store.

    Raises:
        RunNotFound: nothing fits.
        UsageError: several runs do, or it is no id and there is no store to ask.
        StoreError: there is a store here, which cannot be read.
    """
    try:
        found = open_history().find(run)
    except (StoreError, MissingExtra) as error:
        if isinstance(error, StoreError) and has_store(Settings.from_env()):
            raise StoreError(f"{error}; {alternative}") from error
        if run == "latest" or not is_run_id(run):
            raise UsageError(f"{error}; or give a run's whole id, not {run!r}") from error
        warn(f"{run!r} cannot be looked up here: taken as a run's id")
        return run, None
    return found.id, found
