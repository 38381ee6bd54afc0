"""``lineside checkpoints``, ``verify``, ``pin``, ``unpin`` and ``delete``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lineside.bus.protocol.checkpoints import DELETE, PIN, UNPIN
from lineside.cli.configuration.option import config_option
from lineside.cli.output import JsonOption
from lineside.cli.run_lookup import RunArgument

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
AttemptOption = Annotated[
    str | None,
    typer.Option(
        "--attempt",
        metavar="ID",
        help="Of this attempt, as `lineside show` lists it; default: of the newest.",
    ),
]
OneStepOption = Annotated[
    int, typer.Option("--step", min=0, metavar="N", help="The step of the checkpoint.")
]
WaitOption = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Wait for the archiver's answer.")
]


def checkpoints(
    run: RunArgument,
    newest_whole: Annotated[
        bool,
        typer.Option("--newest-whole", help="Only the newest that a training can resume from."),
    ] = False,
    path: Annotated[
        bool, typer.Option("--path", help="Print only paths of whole ones on this machine.")
    ] = False,
    archive: ArchiveOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """List the checkpoints of a run, the newest first, and where each of them is.

    Resume from the newest whole one: `train.py --resume_from_checkpoint "$(lineside checkpoints RUN
    --newest-whole --path)"`.
    """
    from lineside.cli.checkpoints.archive_source import NamedArchive
    from lineside.cli.checkpoints.listing import list_checkpoints

    named = NamedArchive(archive, config)
    list_checkpoints(run, named, only_newest_whole=newest_whole, only_paths=path, json=json)


def verify(
    run: RunArgument,
    step: StepOption = None,
    attempt: AttemptOption = None,
    archive: ArchiveOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Read checkpoints back from the archive, and list what is damaged, swapped or missing.

    All of the run, or that of --step. Exit code 1 if an object is faulty.
    """
    from lineside.cli.checkpoints.archive_source import NamedArchive
    from lineside.cli.checkpoints.verify import verify_run

    verify_run(run, step, attempt, NamedArchive(archive, config), json)


def pin(
    run: RunArgument,
    step: OneStepOption,
    attempt: AttemptOption = None,
    archive: ArchiveOption = None,
    config: ConfigOption = None,
    wait: WaitOption = True,
    json: JsonOption = False,
) -> None:
    """Keep a checkpoint in the archive, whatever the policy is."""
    _request(PIN, run, step, attempt, archive, config, wait, json)


def unpin(
    run: RunArgument,
    step: OneStepOption,
    attempt: AttemptOption = None,
    archive: ArchiveOption = None,
    config: ConfigOption = None,
    wait: WaitOption = True,
    json: JsonOption = False,
) -> None:
    """Leave a pinned checkpoint to the policy again."""
    _request(UNPIN, run, step, attempt, archive, config, wait, json)


def delete(
    run: RunArgument,
    step: OneStepOption,
    attempt: AttemptOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    archive: ArchiveOption = None,
    config: ConfigOption = None,
    wait: WaitOption = True,
    json: JsonOption = False,
) -> None:
    """Delete a checkpoint from the archive, after a question.

    The folder on the training's machine stays.
    """
    _request(DELETE, run, step, attempt, archive, config, wait, json, asks=not yes)


def _request(
    op: str,
    run: str,
    step: int,
    attempt: str | None,
    archive: str | None,
    config: Path | None,
    wait: bool,
    json: bool,
    asks: bool = False,
) -> None:
    from lineside.cli.checkpoints.archive_source import NamedArchive
    from lineside.cli.checkpoints.requests import request

    named = NamedArchive(archive, config)
    request(op, run, step, attempt, named, asks=asks, wait=wait, json=json)
