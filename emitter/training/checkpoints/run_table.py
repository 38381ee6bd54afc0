"""The table of runs beside a training's checkpoints: ``_lineside/checkpoints.json``.

It is in the folder of the checkpoints and not in one of them: a Trainer rotates by the times of
those folders, and two trainings that are equal have to write equal checkpoints. No upload to a Hub
takes a name that begins with ``_``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lineside.emitter.training.identity import valid_checkpoint_state

FOLDER = "_lineside"
_FILE = "checkpoints.json"
_DIGEST = "trainer_state"


def record(state_file: Path, output_dir: Path, checkpoint_state: Mapping[str, str]) -> None:
    """Record whose checkpoint ``state_file`` was just written in; drop those that are gone.

    Does nothing for a file that is in no folder below ``output_dir``.

    Raises:
        OSError: the table cannot be written.
    """
    checkpoint = state_file.parent
    if output_dir not in checkpoint.parents:
        return
    folder = checkpoint.parent / FOLDER
    table = {
        name: entry for name, entry in _read(folder).items() if (checkpoint.parent / name).is_dir()
    }
    table[checkpoint.name] = {**checkpoint_state, _DIGEST: _digest(state_file)}
    folder.mkdir(exist_ok=True)
    new = folder / f"{_FILE}.{os.getpid()}"
    new.write_text(json.dumps(table, indent=1))
    new.replace(folder / _FILE)


def find(state_file: Path, output_dir: Path) -> dict[str, str]:
    """The state of the run that wrote ``state_file``, as it was recorded; empty if unknown.

    The table is searched beside the checkpoint and in ``output_dir``, because a checkpoint may have
    been copied. An entry counts only for the file that it was made for: a training without
    Lineside may have replaced the checkpoint since.
    """
    with contextlib.suppress(OSError):
        digest, name = _digest(state_file), state_file.parent.name
        for folder in _folders(state_file, output_dir):
            entries = _read(folder)
            found = [entry for entry in entries.values() if entry.get(_DIGEST) == digest]
            if entries.get(name) in found:
                found = [entries[name]]
            for entry in found:
                return valid_checkpoint_state(entry)
    return {}


def _folders(state_file: Path, output_dir: Path) -> Iterator[Path]:
    beside = state_file.parent.parent
    yield from dict.fromkeys(
        path / FOLDER for path in (beside, state_file.resolve().parent.parent, output_dir)
    )


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    """The table; empty if there is none that can be read."""
    try:
        table = json.loads((folder / _FILE).read_text())
    except (OSError, ValueError):
        return {}
    entries = table.items() if isinstance(table, dict) else ()
    return {name: entry for name, entry in entries if isinstance(entry, dict)}


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
