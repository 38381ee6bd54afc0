"""Texts of other people in exported files."""

from __future__ import annotations

import csv
import io
import json

import pytest

from lineside.cli.files import JSON, TEXT, WRITERS, Rows


def written(kind: str, *row: object) -> str:
    out = io.BytesIO()
    columns = {"name": TEXT, "data": JSON}
    WRITERS[kind](Rows("point", columns, iter([row])), out, lambda _: None)
    return out.getvalue().decode()


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1", "'+1"),
        ("-1+1", "'-1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\n=1", "'\n=1"),
        ("\t=1", "\\u0009=1"),
        ("\uff1d1", "'\uff1d1"),
        ("\x1b]0;x\x07", "\\u001b]0;x\\u0007"),
        ("\x9b31m", "\\u009b31m"),
        ("eval/loss=1", "eval/loss=1"),
        ("two\nlines", "two\nlines"),
        ("Verlust \u00a0\u20ac", "Verlust \u00a0\u20ac"),
        ("", ""),
    ],
)
def test_a_text_for_a_spreadsheet_is_no_formula_and_no_terminal_sequence(
    name: str, cell: str
) -> None:
    text = written("spreadsheet", name, {"why": name})
    header, row = csv.reader(io.StringIO(text, newline=""))
    assert header == ["name", "data"]
    assert row[0] == cell
    assert json.loads(row[1]) == {"why": name}


@pytest.mark.parametrize("name", ["=1+1", "tab\tin", "new\nline", "\x1b[31m"])
def test_csv_has_each_text_as_it_is(name: str) -> None:
    _, row = csv.reader(io.StringIO(written("csv", name, None), newline=""))
    assert row[0] == name


def test_json_lines_keep_control_characters_escaped() -> None:
    text = written("jsonl", "\x1b[31m\x9b\x7f", None)
    assert text.rstrip("\n").isprintable()
    assert json.loads(text)["name"] == "\x1b[31m\x9b\x7f"
