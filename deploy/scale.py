"""Copies the configuration of Prometheus and Alertmanager with all times divided by a factor.

For a trial of the alerts: with 60, what takes ten minutes takes ten seconds.

    python deploy/scale.py 60 /tmp/trial

makes ``/tmp/trial/prometheus`` and ``/tmp/trial/alertmanager``. Times of Lineside itself stay: the
exporter renders its page every five seconds (``lineside exporter --interval``), and a run is
disconnected after fifteen.
"""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path

HERE = Path(__file__).parent
_MILLISECONDS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
# The value of an option for a time, and ranges and offsets in queries.
_DURATION = re.compile(r"((?:^ *(?:- )?(?:for|\w*interval|\w*_wait): |\[|offset ))(\d+)(\w+)", re.M)
# A number of seconds, which queries write in hours.
_HOURS = re.compile(r"\b(\d+) \* 3600\b")


def scaled(text: str, factor: float) -> str:
    """``text``, the configuration or the rules, with all times divided by ``factor``."""

    def shorter(found: re.Match[str]) -> str:
        milliseconds = int(found[2]) * _MILLISECONDS[found[3]] / factor
        return f"{found[1]}{max(1, round(milliseconds))}ms"

    return _HOURS.sub(
        lambda found: f"{int(found[1]) * 3600 / factor:g}", _DURATION.sub(shorter, text)
    )


def copy_scaled(factor: float, target: Path) -> None:
    """Copy the folders ``prometheus`` and ``alertmanager`` into ``target``."""
    for name in ("prometheus", "alertmanager"):
        shutil.copytree(HERE / name, target / name, ignore=shutil.ignore_patterns("tests"))
        for path in (target / name).rglob("*.yml"):
            path.write_text(scaled(path.read_text(), factor))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("factor", type=float, help="what all times are divided by")
    parser.add_argument("target", type=Path, help="a new folder")
    found = parser.parse_args()
    if found.factor <= 0:
        parser.error(f"factor is {found.factor:g}: it is a number above 0")
    if found.target.exists():
        parser.error(f"{found.target} exists: name a folder that does not")
    copy_scaled(found.factor, found.target)


if __name__ == "__main__":
    main()
