"""One row of the benchmark table, the table as Markdown, and the page with the tables."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "benchmarks.md"


@dataclass(frozen=True)
class Row:
    """The measured quantity ``what``, its ``figure`` with ``unit``, and its ``limit``.

    ``at_least`` marks a lower limit. ``note`` names the other side of a
    ratio, or the spread.
    """

    what: str
    figure: float
    unit: str
    limit: float
    at_least: bool = False
    note: str = ""

    @property
    def is_met(self) -> bool:
        return self.figure >= self.limit if self.at_least else self.figure <= self.limit


def markdown(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table, one line each."""
    lines = ["| what | measured | limit | met | beside |", "|---|---|---|---|---|"]
    for row in rows:
        bound = "at least" if row.at_least else "at most"
        lines.append(
            f"| {row.what} | {row.figure:,.4g} {row.unit} | {bound} {row.limit:,g} {row.unit} "
            f"| {'yes' if row.is_met else 'no'} | {row.note} |"
        )
    return "\n".join(lines)


def machine(packages: Sequence[str]) -> str:
    """The machine and the versions of ``packages``, in one line."""
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    cores = len(os.sched_getaffinity(0))
    python = platform.python_version()
    return f"{cores} cores, Linux {platform.release()}, Python {python}, {versions}"


def write_section(heading: str, text: str) -> None:
    """Replace the section ``heading`` of the page, or add it."""
    first, *others = PAGE.read_text().rstrip("\n").split("\n## ")
    section = f"{heading}\n\n{text}\n"
    places = [index for index, one in enumerate(others) if one.startswith(f"{heading}\n")]
    if places:
        others[places[0]] = section
    else:
        others.append(section)
    parts = [one.rstrip("\n") for one in (first, *others)]
    PAGE.write_text("\n\n## ".join(parts) + "\n")


def today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())
