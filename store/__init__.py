"""Run history: schema, migrations, writes and reads. Needs the extra ``server``."""

from importlib.util import find_spec

from lineside.bus.errors import MissingExtra

if find_spec("sqlalchemy") is None:
    raise MissingExtra("the run history", "sqlalchemy", "server")
