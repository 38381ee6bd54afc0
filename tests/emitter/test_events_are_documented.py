"""docs/reference/events.md names every state scalar, flag and phase."""

from __future__ import annotations

from pathlib import Path

import pytest

from lineside.bus.protocol.events import CONTROL_BITS
from lineside.emitter.spool.status_page import PHASES
from lineside.emitter.training.facts.trainer import STATE_SCALARS

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "events.md").read_text()


@pytest.mark.parametrize("word", [*STATE_SCALARS, *CONTROL_BITS, *PHASES])
def test_every_state_scalar_flag_and_phase_is_named(word: str) -> None:
    assert word in PAGE
