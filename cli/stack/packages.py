"""The packages without which a stack does not run."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from lineside.bus.errors import MissingExtra
from lineside.emitter.sampler.starter import missing_package

if TYPE_CHECKING:
    from lineside.cli.configuration.loading import StackConfiguration

REQUIRED_PACKAGES = (
    "sqlalchemy",
    "alembic",
    "fastapi",
    "uvicorn",
    "jinja2",
    "plotly",
    "yaml",
    "prometheus_client",
)
"""Those of the extra ``server``."""


def check_packages(configuration: StackConfiguration | None = None) -> None:
    """Check that the packages are installed, also those for what ``configuration`` enables.

    Raises:
        MissingExtra: one is not.
    """
    for package in REQUIRED_PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise MissingExtra("the stack", package, "server")
    if configuration is None:
        return
    sampler = configuration.values.sampler
    if sampler.enabled and "enabled" in sampler.model_fields_set and missing_package():
        raise MissingExtra("the sampler", "psutil", "system")


def missing_sampler(configuration: StackConfiguration) -> str | None:
    """Why the stack has no sampler, though nothing turns it off; None if it has one or is off."""
    if not configuration.values.sampler.enabled:
        return None
    return missing_package("turn it off by `sampler: {enabled: false}` in the configuration file")
