"""Measures everything and prints one table.

    python -m benchmarks [--write | NAME...]

``--write`` puts the table into docs/reference/benchmarks.md, with the machine it was measured on.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
import time

import benchmarks
from benchmarks.table import PAGE, Row, machine, markdown, today, write_section

PACKAGES = ("lineside", "pyzmq", "transformers", "torch", "sqlalchemy")


def benchmark_names() -> list[str]:
    """The modules with a function ``measure``."""
    names = (module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    return sorted(
        name
        for name in names
        if not name.startswith("_")
        and hasattr(importlib.import_module(f"benchmarks.{name}"), "measure")
    )


def main() -> None:
    known = benchmark_names()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure Lineside.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name} in the docs")
    options = parser.parse_args()
    unknown = set(options.names) - set(known)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if options.names and options.write:
        parser.error("--write replaces the whole table: name no benchmark with it")

    rows: list[Row] = []
    for name in options.names or known:
        started = time.monotonic()
        print(f"{name} ...", end="", file=sys.stderr, flush=True)
        rows += importlib.import_module(f"benchmarks.{name}").measure()
        print(f" {time.monotonic() - started:.0f} s", file=sys.stderr)
    table = markdown(rows)
    print(table)
    if options.write:
        text = f"On {machine(PACKAGES)}, {today()}, by `make bench`."
        write_section("Lineside", f"{text}\n\n{table}")


if __name__ == "__main__":
    main()
