"""Run history. Subscribers, dashboard and CLI import it; it needs the extra ``server``."""

from importlib.util import find_spec

from lineside.bus.errors import MissingExtra

if find_spec("sqlalchemy") is None:
    raise MissingExtra("the run history", "sqlalchemy", "server")
