"""The option ``--config`` of commands: options that are not given come from the file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lineside.bus.errors import MissingExtra
from lineside.bus.settings import Settings

if TYPE_CHECKING:
    from lineside.cli.configuration.loading import StackConfiguration

CONFIG_VARIABLE = "LINESIDE_CONFIG"
"""The variable of the environment that names the file if ``--config`` does not."""


def config_option(*sections: str) -> Any:
    """The option; values in these ``sections`` of the file become defaults of the command."""

    def set_defaults(context: typer.Context, path: Path | None) -> Path | None:
        if path is not None and sections:
            values = load_configuration(path).values
            context.default_map = {
                name: value
                for section in sections
                for name, value in getattr(values, section).model_dump().items()
            }
        return path

    return typer.Option(
        "--config",
        metavar="FILE",
        envvar=CONFIG_VARIABLE,
        is_eager=True,
        callback=set_defaults,
        help="Configuration file; options of the command line win.",
        show_default=False,
    )


def load_configuration(path: Path | None) -> StackConfiguration:
    """The configuration in ``path``, or the default one without a path.

    Raises:
        UsageError: the file has faults, or cannot be read.
        MissingExtra: the packages of the extra ``server`` are not installed.
    """
    try:
        from lineside.cli.configuration import loading
    except ModuleNotFoundError as error:
        raise MissingExtra("a configuration", error.name or "pydantic", "server") from None
    return loading.load(path, Settings.from_env().home)
