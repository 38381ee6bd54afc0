"""The registry of event kinds, and docs/reference/events.md, whose tables it is held to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lineside.bus.protocol import commands
from lineside.bus.protocol.event_kinds import (
    ANSWER_PREFIX,
    BESIDE,
    DROP_FIRST,
    DROP_LAST,
    DROP_SECOND,
    EVENT_KINDS,
    KINDS,
    LIFECYCLE_KINDS,
    OWN_KINDS,
    SHOWN,
    STEP_KINDS,
    TRAINER,
    TRAINING,
    event_kind,
)

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "events.md").read_text()
SECTIONS = {
    TRAINER: "The Trainer's own",
    TRAINING: "Lineside's own, from the training process",
    BESIDE: "Lineside's own, from beside the training",
}


def documented(source: str) -> dict[str, str]:
    """Kinds of the page's table about ``source``, with its column "when"."""
    section = PAGE.partition(f"## {SECTIONS[source]}\n")[2].partition("\n## ")[0]
    table = section[section.index("| kind ") :].partition("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table]
    when = rows[0].index("when")
    return {row[0].strip("`"): row[when] for row in rows[2:]}


@pytest.mark.parametrize("source", SECTIONS)
def test_the_page_has_the_kinds_and_sentences_of_the_registry(source: str) -> None:
    expected = {kind.name: kind.doc for kind in EVENT_KINDS if kind.source == source}
    assert documented(source) == expected


@pytest.mark.parametrize("kind", EVENT_KINDS, ids=lambda kind: kind.name)
def test_every_kind_has_a_label_and_one_sentence(kind: object) -> None:
    found = KINDS[getattr(kind, "name", "")]
    assert found is kind
    assert re.fullmatch(r"[A-Z][a-z ]+", found.label)
    assert re.fullmatch(r"[A-Z`][^.]*(\.\d[^.]*)?\.", found.doc)


def test_every_kind_belongs_to_the_trainer_or_to_lineside() -> None:
    assert len(KINDS) == len(EVENT_KINDS)
    assert {*LIFECYCLE_KINDS, *OWN_KINDS} == set(KINDS)
    assert not {*LIFECYCLE_KINDS} & {*OWN_KINDS}


def test_step_kinds_are_lifecycle_kinds_and_dropped_first() -> None:
    assert set(LIFECYCLE_KINDS) >= STEP_KINDS
    assert {kind.name for kind in EVENT_KINDS if kind.drop_level == DROP_FIRST} == STEP_KINDS


def test_every_answer_to_a_command_has_the_prefix() -> None:
    answers = set(commands.STATE_OF_KIND) - {commands.COMMAND}
    assert answers >= commands.FINAL_KINDS
    assert all(kind.startswith(ANSWER_PREFIX) for kind in answers)
    assert {ANSWER_PREFIX + commands.STATE_OF_KIND[kind] for kind in answers} == answers


@pytest.mark.parametrize(
    ("name", "label", "level"),
    [("of_the_user", "Of the user", DROP_SECOND), ("control_later", "Control later", DROP_LAST)],
)
def test_an_unknown_kind_has_a_label_and_a_drop_level(name: str, label: str, level: int) -> None:
    kind = event_kind(name)
    assert (kind.name, kind.label, kind.drop_level, kind.timeline) == (name, label, level, SHOWN)
