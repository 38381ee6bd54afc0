"""The table of docs/reference/trackers.md: tests compare their results with it, or write it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/reference/trackers.md"
RESULT, ONCE = "hosted result", "exactly once after kill -9"
COLUMNS = ("tracker", "version", RESULT, ONCE)
NOT_TESTED = "-"


@dataclass
class Table:
    """Rows by tracker. ``is_written`` decides whether ``check`` writes or compares."""

    is_written: bool
    page: Path = PAGE

    def check(self, tracker: str, column: str, found: str, package: str = "") -> None:
        """Compare ``found`` with the page; with ``--write-table`` write it there.

        Raises:
            AssertionError: the page has another result, or none.
        """
        before, rows, after = self._read()
        row = rows.get(tracker, dict.fromkeys(COLUMNS, NOT_TESTED) | {"tracker": tracker})
        if self.is_written:
            row[column] = found
            row["version"] = f"{package} {version(package)}" if package else row["version"]
            rows[tracker] = row
            lines = [before, *self._lines(rows), after]
            self.page.write_text("\n".join(lines), encoding="utf-8")
            return
        assert row[column] == found, (
            f"{self.page.name} has {row[column]!r} as {column!r} of {tracker}, found {found!r}: "
            "run `make test-trackers ARGS=--write-table`"
        )

    def _read(self) -> tuple[str, dict[str, dict[str, str]], str]:
        lines = self.page.read_text(encoding="utf-8").split("\n")
        start = next(i for i, line in enumerate(lines) if line.startswith(f"| {COLUMNS[0]} |"))
        end = next(i for i, line in enumerate(lines) if i > start and not line.startswith("|"))
        cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines[start + 2 : end]]
        rows = {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in cells}
        return "\n".join(lines[:start]), rows, "\n".join(lines[end:])

    @staticmethod
    def _lines(rows: dict[str, dict[str, str]]) -> list[str]:
        body = [[rows[name][column] for column in COLUMNS] for name in sorted(rows)]
        cells = [list(COLUMNS), ["---"] * len(COLUMNS), *body]
        return ["| " + " | ".join(row) + " |" for row in cells]
