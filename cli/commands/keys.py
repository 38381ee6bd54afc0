"""``lineside keys``: keys for other machines and tokens for the dashboard."""

from __future__ import annotations

import dataclasses
import time
from typing import Annotated, Literal

import typer

from lineside.bus.auth.keyring import Credential, Keyring, keys_folder
from lineside.bus.errors import UsageError
from lineside.bus.settings import Settings
from lineside.cli.output import JsonOption, print_json, table, warn

Action = Literal["new", "list", "revoke"]


def keys(
    action: Annotated[Action, typer.Argument(help="The action.")],
    name: Annotated[str, typer.Argument(help="Name of the key.")] = "",
    role: Annotated[
        list[str] | None,
        typer.Option(help="A role: emit, read, control, annotate or admin; may be repeated."),
    ] = None,
    runs: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help="Only runs whose id matches, as nlp-*; may be repeated."
        ),
    ] = None,
    token: Annotated[
        bool, typer.Option("--token", help="Create a token for the dashboard instead of a key.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Create, list and revoke keys and tokens.

    A key opens the broker, a token the dashboard. Example: `lineside keys new node7 --role emit`
    on the broker's machine. A change takes effect within a second, without a restart.
    """
    keyring = Keyring(keys_folder(Settings.from_env().home))
    if action == "list":
        _list(keyring, json)
    elif not name:
        raise UsageError(f"keys {action}: NAME is missing; expected the name of a key")
    elif action == "revoke":
        revoked = keyring.revoke(name)
        if json:
            print_json(_document(revoked))
        else:
            typer.echo(f"{revoked.what} {name} is revoked")
    elif token:
        _new_token(keyring, name, role or (), runs or (), json)
    else:
        path = keyring.new_key(name, role or (), runs or ())
        if json:
            print_json({"name": name, "what": "key", "file": str(path)})
        else:
            typer.echo(path)
            warn("Copy this file to the other machine, readable by its user only, and set there")
            warn("  LINESIDE_KEY=/path/to/it LINESIDE_BROKER=tcp://THIS-MACHINE:7430")


def _new_token(
    keyring: Keyring, name: str, roles: list[str] | tuple[()], runs: object, json: bool
) -> None:
    if runs:
        raise UsageError("--runs: a token covers every run; only keys can be limited to some")
    new_token = keyring.new_token(name, roles)
    if json:
        print_json({"name": name, "what": "token", "token": new_token})
    else:
        typer.echo(new_token)
        warn("This token is shown only now: Lineside keeps only its hash.")


def _list(keyring: Keyring, json: bool) -> None:
    keyring.raise_if_unreadable()
    found = keyring.credentials()
    if json:
        print_json({"items": [_document(one) for one in found]})
        return
    rows = [
        (
            one.name,
            one.what,
            ", ".join(one.roles),
            ", ".join(one.runs) or "all",
            _day(one.created),
            f"revoked {_day(one.revoked)}" if one.revoked else "good",
        )
        for one in found
    ]
    typer.echo(table(("name", "what", "roles", "runs", "made", "state"), rows))


def _document(credential: Credential) -> dict[str, object]:
    fields = dataclasses.asdict(credential)
    del fields["proof"]
    return fields | {"revoked": credential.revoked or None}


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))
