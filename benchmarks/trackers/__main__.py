"""Measures what trackers cost and prints the tables.

    python -m benchmarks.trackers [--write] [--rounds N] [NAME...]

``--write`` puts each into docs/reference/benchmarks.md, with the machine it was measured on.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from importlib.metadata import version

from benchmarks.table import PAGE, machine, today, write_section
from benchmarks.trackers import hook_cost, outages, stock, take_over
from lineside.bus.wording import plural

PACKAGES = ("lineside", "transformers", "torch")
TABLES = {
    "hook-cost": ("What a tracker costs", hook_cost.measure, hook_cost.NOTE),
    "take-over": ("Take-over of a script's trackers", take_over.measure, take_over.NOTE),
    "outages": ("Outages of a tracker", outages.measure, outages.NOTE),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trackers", description="Measure what trackers cost a training."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TABLES)}")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name} in the docs")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way; default 3")
    options = parser.parse_args()
    if unknown := set(options.names) - set(TABLES):
        parser.error(f"no table {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")

    for name in options.names or TABLES:
        heading, measure, note = TABLES[name]
        started = time.monotonic()
        print(f"{name} ...", end="", file=sys.stderr, flush=True)
        load = os.getloadavg()[0]
        table = measure(options.rounds)
        print(f" {time.monotonic() - started:.0f} s", file=sys.stderr)
        print(f"\n{table}")
        if options.write:
            trackers = ", ".join(
                f"{one} {version(one)}" for one in map(stock.package, stock.installed())
            )
            when = (
                f"On {machine(PACKAGES)}, {today()}, by `make bench-trackers`; "
                f"{plural(options.rounds, 'round')}, load average {load:.1f} at the start; "
                f"{trackers}."
            )
            write_section(heading, f"{note}\n\n{table}\n\n{when}")


if __name__ == "__main__":
    main()
