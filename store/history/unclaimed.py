"""Finds events of which no run is shown, because no producer of theirs is called ``rank0``."""

from __future__ import annotations

from sqlalchemy import Engine, select

from lineside.bus.protocol.events import AUDIT, INTERNAL_RUN
from lineside.store.database.engine import read_transaction
from lineside.store.database.tables import runs, streams

EXPLANATION = (
    "no run is shown until a producer called rank0 publishes (bus/PROTOCOL.md, section 11)"
)
_MAX_STREAMS = 1000


def unclaimed_runs(engine: Engine) -> dict[str, list[str]]:
    """The producers of each run that has events, was not deleted, and has not begun."""
    query = (
        select(runs.c.id, streams.c.producer)
        .join(streams, streams.c.run_key == runs.c.key)
        .where(runs.c.started_at.is_(None), runs.c.deleted_at.is_(None))
        .where(runs.c.id.not_in((AUDIT, INTERNAL_RUN)))
        .where(streams.c.recorded > 0)
        .distinct()
        .order_by(runs.c.id, streams.c.producer)
        .limit(_MAX_STREAMS)
    )
    found: dict[str, list[str]] = {}
    with read_transaction(engine) as connection:
        for run, producer in connection.execute(query):
            found.setdefault(run, []).append(producer)
    return found
