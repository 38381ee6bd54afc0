"""``lineside backup`` and ``lineside restore``: a home in one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lineside.bus.errors import MissingExtra, UsageError
from lineside.bus.settings import Settings
from lineside.bus.wording import plural
from lineside.cli.checkpoints.command import (
    ArchiveOption,
    AttemptOption,
    ConfigOption,
    StepOption,
)
from lineside.cli.configuration.option import config_option
from lineside.cli.output import JsonOption, StatusLine, pairs, print_json

if TYPE_CHECKING:
    from lineside.cli.backup.restore import RestoreResult


def backup(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The archive; .gz or .tgz compresses it.")
    ],
    config: Annotated[Path | None, config_option()] = None,
    store: Annotated[
        bool, typer.Option("--store/--no-store", help="Include the store, the run history.")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    json: JsonOption = False,
) -> None:
    """Copy the home into one file, while everything runs.

    It holds the journal, the store, keys, rules, states of subscribers and the configuration file,
    and the events that wait in the spool. It holds secrets: only you can read it.
    """
    from dataclasses import asdict

    from lineside.cli.backup.backup import Backup
    from lineside.dashboard.formatting import size

    if config is not None and not config.is_file():
        raise UsageError(f"there is no configuration file {config}: expected a file in YAML")
    progress = StatusLine()
    try:
        writer = Backup(Settings.from_env(), config, with_store=store, on_progress=progress.update)
        result = writer.write(file.absolute(), force=force)
    finally:
        progress.clear()
    if json:
        print_json(asdict(result))
        return
    typer.echo(f"{result.file}: {size(result.bytes)}, {plural(len(result.members), 'file')}")
    typer.echo(_facts(vars(result)))


def restore(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN|FILE", help="With --to a run; otherwise an archive of `lineside backup`."
        ),
    ],
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", help="Restore a checkpoint of RUN to this new folder."),
    ] = None,
    step: StepOption = None,
    attempt: AttemptOption = None,
    best: Annotated[bool, typer.Option("--best", help="The best checkpoint.")] = False,
    last: Annotated[bool, typer.Option("--last", help="The last checkpoint (default).")] = False,
    archive: ArchiveOption = None,
    config: ConfigOption = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only check FILE, and restore nothing.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Of FILE: replace what the home has, and keep it aside.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Restore a checkpoint from the archive, or make the home from a backup.

    `lineside restore RUN --to DIR` writes a checkpoint of the archive to DIR, and compares each
    part with its checksum. It needs no store and no running service.

    `lineside restore FILE` makes the home from a backup. It refuses while a process uses the home.
    The whole file is checked before anything is replaced. The spool stays as it is, so trainings go
    on.
    """
    if to is not None:
        if check or force:
            raise UsageError("--check and --force are for a backup, without --to")
        from lineside.cli.checkpoints.archive_source import NamedArchive
        from lineside.cli.checkpoints.restore import Wanted, restore_checkpoint

        named = NamedArchive(archive, config)
        restore_checkpoint(source, Wanted(step, best, last, attempt), to, named, json)
        return
    if best or last or any(one is not None for one in (step, attempt, archive)):
        raise UsageError(
            "--step, --attempt, --best, --last and --archive restore a checkpoint: --to is missing"
        )
    _restore_home(Path(source), check, force, json)


def _restore_home(file: Path, check: bool, force: bool, json: bool) -> None:
    from lineside.cli.backup import restore as restoring

    if not file.is_file():
        raise UsageError(
            f"there is no file {file}: expected an archive of `lineside backup`, or a run with --to"
        )
    settings = Settings.from_env()
    progress = StatusLine()
    try:
        if check:
            facts = restoring.check(file, progress.update)
        else:
            found = restoring.Restore(settings, progress.update).restore(file, force=force)
            facts = found.facts
    except ModuleNotFoundError as missing:
        raise MissingExtra("a restore", missing.name or "sqlalchemy", "server") from missing
    finally:
        progress.clear()
    if json:
        print_json(facts if check else vars(found))
    elif check:
        typer.echo(f"{file} is whole: {plural(len(facts['members']), 'file')}")
        typer.echo(_facts(facts))
    else:
        typer.echo(f"{found.home} is restored.")
        typer.echo(_facts(facts))
        _print_next_steps(settings, found)


def _facts(facts: dict[str, Any]) -> str:
    rows = [("made", f"{facts.get('created_at')}, by Lineside {facts.get('lineside')}")]
    if journal := facts.get("journal"):
        rows.append(("journal", f"up to offset {journal['head']:,}"))
    if store := facts.get("store"):
        revision = f", schema revision {store['revision']}" if store.get("revision") else ""
        rows.append(("store", f"{store['kind']}{revision}"))
    if events := facts.get("spool_events"):
        rows.append(("spool", f"{plural(events, 'event')} that had not reached the journal"))
    return pairs(rows)


def _print_next_steps(settings: Settings, found: RestoreResult) -> None:
    if found.kept:
        typer.echo(f"What was there is in {found.kept}; delete it when you do not need it.")
    if found.store_dump:
        from lineside.cli.backup.postgres import restore_command

        is_sqlite = settings.store.startswith("sqlite")
        store = "postgresql://HOST/DATABASE" if is_sqlite else settings.store
        command = restore_command(store, Path(found.store_dump))
        typer.echo(f"The store was PostgreSQL. Before you start Lineside:\n  {command}")
    config = f"LINESIDE_CONFIG={found.config} " if found.config else ""
    typer.echo(f"Start it with `{config}lineside up`.")
