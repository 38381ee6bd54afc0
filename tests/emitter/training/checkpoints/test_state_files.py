"""The Trainer's state files are written and read as without Lineside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from transformers import TrainerState

from lineside.emitter import LinesideCallback


def test_a_path_in_bytes_and_a_descriptor_are_written_and_read(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    LinesideCallback()
    path = tmp_path / "trainer_state.json"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    for given in (os.fsencode(path), descriptor):
        TrainerState(global_step=3).save_to_json(given)
    assert TrainerState.load_from_json(os.fsencode(path)).global_step == 3
    assert "a checkpoint's run could not be kept" in capsys.readouterr().err
