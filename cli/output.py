"""Prints aligned tables for people and strict JSON for machines."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import typer

from lineside.bus.terminal_text import CONTROL_ESCAPES, printable
from lineside.dashboard.http.strict_json import strict

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Print ``value`` as strict JSON: NaN and infinities become null."""
    clean, _ = strict(value)
    text = json.dumps(clean, indent=indent, ensure_ascii=False).translate(CONTROL_ESCAPES)
    sys.stdout.write(text + "\n")


def shorten(text: str, length: int = 40) -> str:
    """``text``, cut to ``length`` characters."""
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()
) -> str:
    """Aligned columns; those whose index is in ``right`` are right-aligned."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in (header, *rows)) for at in range(len(header))]
    lines = [
        "  ".join(
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (header, *rows)
    ]
    return "\n".join(lines)


def pairs(items: Sequence[tuple[str, str]], indent: int = 2) -> str:
    """Names and values, one pair a line."""
    items = [(printable(name), printable(value)) for name, value in items]
    width = max((len(name) for name, _ in items), default=0)
    return "\n".join(
        f"{' ' * indent}{name.ljust(width)}  {value}".rstrip() for name, value in items
    )


def local_time(time: datetime) -> str:
    """``2026-11-21 08:26:53`` in this machine's time."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def step_text(step: int | None, of: int | None) -> str:
    """``120/1,000``, or without the end where it is unknown."""
    if step is None:
        return ""
    return f"{step:,}/{of:,}" if of and of > 0 else f"{step:,}"


def warn(sentence: str) -> None:
    """Print a line to stderr; never fails."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{printable(sentence)}\n")
        sys.stderr.flush()


class StatusLine:
    """A progress line on stderr; nothing where stderr is not a terminal."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._width = 0

    def update(self, text: str) -> None:
        """Replace the line."""
        if self._shown:
            sys.stderr.write("\r" + text.ljust(self._width))
            sys.stderr.flush()
            self._width = len(text)

    def clear(self) -> None:
        """Erase the line."""
        if self._shown and self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()
            self._width = 0
