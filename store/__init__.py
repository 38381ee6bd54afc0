"""Run history, which needs the extra ``server``, and the archive of checkpoints, which does not.

Subscribers, dashboard and CLI import it.
"""

from importlib.util import find_spec

from lineside.bus.errors import MissingExtra


def require_database() -> None:
    """Check that the extra ``server`` is installed.

    Raises:
        MissingExtra: it is not.
    """
    if find_spec("sqlalchemy") is None:
        raise MissingExtra("the run history", "sqlalchemy", "server")
