"""docs/reference/events.md names every kind of event and what it carries."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lineside.bus.protocol.events import CONTROL_BITS, LIFECYCLE_KINDS, OWN_KINDS
from lineside.emitter.spool.status_page import PHASES
from lineside.emitter.training import metadata

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "events.md").read_text()


def test_every_kind_has_a_row_and_no_other_has() -> None:
    sections = PAGE.partition("## The Trainer's own")[2]
    tables = re.findall(r"\| kind .*?(?=\n\n|\Z)", sections, re.DOTALL)
    rows = [kind for table in tables for kind in re.findall(r"^\| `(\w+)`", table, re.MULTILINE)]
    assert sorted(rows) == sorted((*LIFECYCLE_KINDS, *OWN_KINDS))


@pytest.mark.parametrize("word", [*metadata._STATE_SCALARS, *CONTROL_BITS, *PHASES])
def test_every_state_scalar_flag_and_phase_is_named(word: str) -> None:
    assert word in PAGE
