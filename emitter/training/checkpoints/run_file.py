"""The file in a checkpoint that names its run: ``lineside_run.json``.

It is in the checkpoint, so that it is copied, moved and removed with it, and so that the output
folder has the entries that it has without Lineside. ``trainer_state.json`` is left alone: equal
trainings write equal ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from lineside.emitter.training.identity import valid_checkpoint_state

FILE_NAME = "lineside_run.json"
_DIGEST = "trainer_state"


def write(state_file: Path, output_dir: Path, checkpoint_state: Mapping[str, str]) -> None:
    """Write whose checkpoint ``state_file`` was just written in.

    Does nothing for a file that is in no folder below ``output_dir``.

    Raises:
        OSError: the file cannot be written.
    """
    if output_dir in state_file.parent.parents:
        content = {**checkpoint_state, _DIGEST: _digest(state_file)}
        (state_file.parent / FILE_NAME).write_text(json.dumps(content, indent=1))


def read(state_file: Path) -> dict[str, str]:
    """The state of the run that wrote ``state_file``; empty if unknown.

    It counts only for the very state that it was written with: a training without Lineside may have
    replaced the checkpoint since.
    """
    try:
        content = json.loads((state_file.parent / FILE_NAME).read_bytes())
        if content.pop(_DIGEST) == _digest(state_file):
            return valid_checkpoint_state(content)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass  # there is none, or something else
    return {}


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
