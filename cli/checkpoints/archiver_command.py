"""``lineside archiver``: the process that copies checkpoints to an archive."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lineside.bus.errors import MissingExtra
from lineside.bus.service import configure_logging
from lineside.bus.settings import Settings
from lineside.bus.yaml_document import DocumentError
from lineside.cli.configuration.option import config_option, load_configuration

ArchiveOption = Annotated[
    str,
    typer.Option(
        "--archive",
        metavar="URL",
        help="Archive checkpoints there: a folder, or a bucket as s3://, gs:// or az://.",
    ),
]


def archiver(
    config: Annotated[Path | None, config_option()] = None,
    archive: ArchiveOption = "",
    check: Annotated[bool, typer.Option("--check", help="Only check the options.")] = False,
) -> None:
    """Copy checkpoints to an archive, before training deletes them, and keep those that you choose.

    Where, and what is kept, is in the section `archive` of the configuration file. Trainings of
    this home hold their checkpoints from its first start on. Archives other than folders need the
    extra `archive`.
    """
    from lineside.cli.configuration.archive import find
    from lineside.store.archive.errors import ArchiveLocationError
    from lineside.store.archive.location import ArchiveLocation, open_archive

    configuration = load_configuration(config)
    section = find(configuration.with_archive(archive))
    try:
        opened = open_archive(
            ArchiveLocation(section.url, section.options),
            parallel=section.parallel,
            bytes_per_second=section.bandwidth * (1 << 20),
        )
    except (ArchiveLocationError, MissingExtra) as error:
        if configuration.document is None or configuration.archive.url != section.url:
            raise
        fault = configuration.document.problem(("archive", "url"), str(error))
        raise DocumentError([fault]) from None
    if check:
        return
    from lineside.subscribers.archiver.service import ArchiverService
    from lineside.subscribers.archiver.tasks import ArchiveWork

    configure_logging()
    ArchiverService(
        Settings.from_env(),
        ArchiveWork(opened, section.archiver_options),
        section.hold_limits,
    ).serve()
