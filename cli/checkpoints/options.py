"""The options of several commands on checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lineside.cli.configuration.option import config_option

ArchiveOption = Annotated[
    str | None,
    typer.Option(
        "--archive",
        metavar="URL",
        help="The archive, as s3://BUCKET/PREFIX or a folder, instead of the configuration's.",
    ),
]
ConfigOption = Annotated[Path | None, config_option()]
StepOption = Annotated[
    int | None, typer.Option("--step", min=0, metavar="N", help="The step of the checkpoint.")
]
