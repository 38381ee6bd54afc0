"""One row of the benchmark table, and the table as Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


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
