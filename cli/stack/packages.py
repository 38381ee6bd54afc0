"""The packages of the extra ``server``, without which no stack runs."""

from __future__ import annotations

import importlib.util

from lineside.bus.errors import MissingExtra

REQUIRED_PACKAGES = (
    "sqlalchemy",
    "alembic",
    "fastapi",
    "uvicorn",
    "jinja2",
    "plotly",
    "yaml",
)


def check_packages() -> None:
    """Check that the packages are installed.

    Raises:
        MissingExtra: one is not.
    """
    for package in REQUIRED_PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise MissingExtra("the stack", package, "server")
