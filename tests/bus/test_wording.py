from __future__ import annotations

import pytest

from lineside.bus.wording import agree, did_you_mean, plural


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (1, "event", "1 event"),
        (0, "event", "0 events"),
        (12345, "event", "12,345 events"),
        (2, "journal entry", "2 journal entries"),
        (2, "day", "2 days"),
        (3, "batch", "3 batches"),
        (1, "process", "1 process"),
        (4, "process", "4 processes"),
    ],
)
def test_a_noun_has_the_form_of_its_number(count: int, noun: str, text: str) -> None:
    assert plural(count, noun) == text


@pytest.mark.parametrize(
    ("word", "several"),
    [("is", "are"), ("was", "were"), ("has", "have"), ("waits", "wait"), ("its", "their")],
)
def test_a_verb_agrees_with_its_number(word: str, several: str) -> None:
    assert agree(1, word) == word
    assert agree(0, word) == agree(2, word) == several


def test_a_name_is_suggested_only_if_it_is_near() -> None:
    assert did_you_mean("statsu", ["status", "search", "sort"]) == "; did you mean status?"
    assert did_you_mean("zzz", ["status"]) == ""
