"""Which files of a home are in a backup."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from lineside.bus.local_stack import UNFINISHED_RESTORE
from lineside.bus.settings import Settings
from lineside.cli.backup.sqlite_copy import SIDE_FILES

LOGS = "logs"
ASIDE_PREFIX = "before-restore-"
"""How the folders begin in which a restore keeps what was there."""
STAGING = ".restore"
"""The folder in which a restore keeps what it has not checked yet."""
_NOT_STATE = ("demo", "health")  # the home of `lineside demo`; what `lineside.cli.health` reads
_NOT_KEPT = (".lock", ".sock", *SIDE_FILES)


def is_in_backup(settings: Settings, path: Path) -> bool:
    """Whether ``path``, directly in the home, is in a backup, with all below it.

    Not in it: logs, sockets and locks; spools, because what they hold is put into the journal of
    the backup; a damaged store that was set aside; the home of the demo; and what a restore kept.
    """
    return not (
        path.name in (LOGS, STAGING, UNFINISHED_RESTORE, *_NOT_STATE)
        or path.name.startswith(ASIDE_PREFIX)
        or path.name.endswith(_NOT_KEPT)
        or ".damaged-" in path.name
        or path == settings.spool
        or path in settings.spool.parents
    )


def home_files(settings: Settings) -> Iterator[tuple[str, Path]]:
    """Each file of the home for a backup but for the journal: its path in the home, and its path.

    A link is followed if it leads to a file.
    """
    home = settings.home
    for top in sorted(home.iterdir()):
        if not is_in_backup(settings, top) or top == settings.journal:
            continue
        if top.is_dir():
            for folder, names, files in os.walk(top):
                names.sort()
                for file in sorted(files):
                    path = Path(folder, file)
                    if path.is_file() and not file.endswith(_NOT_KEPT):
                        yield str(path.relative_to(home)), path
        elif top.is_file():
            yield top.name, top
