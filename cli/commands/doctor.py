"""``lineside doctor``: whether everything is as it should be, and what to do where it is not."""

from __future__ import annotations

import dataclasses

import typer

from lineside.bus.settings import Settings
from lineside.cli.output import JsonOption, print_json


def doctor(json: JsonOption = False) -> None:
    """Check this machine and the stack.

    Each line is ok, warn or fail, with what to do. Exit code 1 if there is a fail.
    """
    from lineside.cli import doctor_checks as checks

    found = []
    for check in checks.run_checks(Settings.from_env()):
        found.append(check)
        if not json:
            todo = f"\n      {'':<20} {check.todo}" if check.todo else ""
            typer.echo(f"{check.state:<4}  {check.subject:<20} {check.said}{todo}")
    failed = any(check.state == checks.FAIL for check in found)
    if json:
        print_json({"ok": not failed, "checks": [dataclasses.asdict(check) for check in found]})
    if failed:
        raise typer.Exit(1)
