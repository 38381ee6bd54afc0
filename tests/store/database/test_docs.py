"""The reference of the run history is complete."""

from __future__ import annotations

import re
from pathlib import Path

from lineside.bus.protocol.event_kinds import STEP_KINDS
from lineside.store.database.tables import metadata

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "history.md"


def test_every_table_is_documented_and_no_other() -> None:
    documented = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert set(documented) == set(metadata.tables)


def test_every_kind_that_is_only_counted_is_named() -> None:
    page = PAGE.read_text()
    assert all(f"`{kind}`" in page for kind in STEP_KINDS)
