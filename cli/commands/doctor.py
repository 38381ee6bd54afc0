"""``lineside doctor``: checks this machine and the stack."""

from __future__ import annotations

import dataclasses

import typer

from lineside.bus.settings import Settings
from lineside.cli.output import JsonOption, print_json


def doctor(json: JsonOption = False) -> None:
    """Check this machine and the stack.

    Each line is ok, warn or fail, with a remedy. Exit code 1 if a check fails.
    """
    from lineside.cli import doctor_checks as checks

    found = []
    for check in checks.run_checks(Settings.from_env()):
        found.append(check)
        if not json:
            hint = f"\n      {'':<20} {check.hint}" if check.hint else ""
            typer.echo(f"{check.state:<4}  {check.subject:<20} {check.detail}{hint}")
    failed = any(check.state == checks.FAIL for check in found)
    if json:
        print_json({"ok": not failed, "checks": [dataclasses.asdict(check) for check in found]})
    if failed:
        raise typer.Exit(1)
