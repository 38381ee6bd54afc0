"""Tables that fit a terminal."""

from __future__ import annotations

from lineside.cli.output import shorten, table


def test_a_long_text_is_cut_and_shows_that() -> None:
    assert shorten("x" * 40) == "x" * 40
    assert shorten("word " * 20) == "word word word word word word word word…"
    assert len(table(("NAME",), [[shorten("x" * 5000)]])) < 100
