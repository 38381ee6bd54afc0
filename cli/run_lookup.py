"""Finds the run that a person names at the command line."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lineside.bus.errors import MissingExtra, StoreError, UsageError
from lineside.bus.protocol.events import is_run_id
from lineside.bus.settings import Settings
from lineside.cli.output import warn

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from lineside.dashboard.backend.transit_reader import TransitReader
    from lineside.store.history.history import History
    from lineside.store.history.records import Run

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="Id of a run, its beginning, a name, or latest.")
]


def open_engine() -> Engine:
    """The store of the settings.

    Raises:
        MissingExtra: SQLAlchemy is not installed.
        StoreError: the store cannot be read.
    """
    from lineside.store.database.engine import open_store

    return open_store(Settings.from_env().store)


def open_history() -> History:
    """The run history of the settings' store; raises as ``open_engine`` does."""
    engine = open_engine()
    from lineside.store.history.history import History

    return History(engine)


def open_history_and_transit() -> tuple[History, TransitReader]:
    """The run history with its statuses as of what is recorded, and what is on its way there.

    Raises as ``open_engine`` does. It asks the broker, for half a second if none answers.
    """
    engine = open_engine()
    from lineside.dashboard.backend.transit_reader import TransitReader
    from lineside.emitter.spool import backlog
    from lineside.store.history.history import History
    from lineside.store.recording.writer import Writer

    settings = Settings.from_env()
    spool = functools.partial(backlog.unconfirmed, settings.spool)
    transit = TransitReader(Writer(engine), settings.broker, spool)
    return History(engine, transit.as_of), transit


def has_store(settings: Settings) -> bool:
    """Whether this machine has a store, readable or not: in the home, or in ``LINESIDE_STORE``."""
    default = Settings.from_env({"LINESIDE_HOME": str(settings.home)}).store
    return settings.store != default or Path(default.removeprefix("sqlite:///")).exists()


def resolve_run(run: str, alternative: str) -> tuple[str, Run | None]:
    """The id and the record of the run that a person names.

    Without a store on this machine, or without the packages to read it, ``run`` must be a whole id
    and there is no record. ``alternative`` ends the error message: what works without a store.

    Raises:
        RunNotFound: no run matches.
        UsageError: several runs match, or there is no store and ``run`` is not an id.
        StoreError: the store of this machine cannot be read.
    """
    try:
        found = open_history().find(run)
    except (StoreError, MissingExtra) as error:
        if isinstance(error, StoreError) and has_store(Settings.from_env()):
            raise StoreError(f"{error}; {alternative}") from error
        if run == "latest" or not is_run_id(run):
            raise UsageError(
                f"{error}; or give the whole id of a run instead of {run!r}"
            ) from error
        warn(f"{run!r} cannot be looked up on this machine: taken as a run's id")
        return run, None
    return found.id, found
