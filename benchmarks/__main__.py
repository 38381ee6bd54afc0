"""Measures everything and prints one table.

    python -m benchmarks [--write] [NAME...]

``--write`` puts the table into docs/reference/benchmarks.md, with the machine it was measured on.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import benchmarks
from benchmarks.table import Row, markdown

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "benchmarks.md"
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


def machine() -> str:
    """The machine and the package versions, in one line."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    cores = len(os.sched_getaffinity(0))
    python = platform.python_version()
    return f"{cores} cores, Linux {platform.release()}, Python {python}, {packages}"


def main() -> None:
    known = benchmark_names()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure Lineside.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name} in the docs")
    options = parser.parse_args()
    unknown = set(options.names) - set(known)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(known)}")

    rows: list[Row] = []
    for name in options.names or known:
        started = time.monotonic()
        print(f"{name} ...", end="", file=sys.stderr, flush=True)
        rows += importlib.import_module(f"benchmarks.{name}").measure()
        print(f" {time.monotonic() - started:.0f} s", file=sys.stderr)
    table = markdown(rows)
    print(table)
    if options.write:
        PAGE.write_text(
            "# Measured\n\n"
            f"On {machine()}, {time.strftime('%Y-%m-%d', time.gmtime())}, by `make bench`. "
            "Ratios were measured side by side in one run.\n\n"
            f"{table}\n"
        )


if __name__ == "__main__":
    main()
