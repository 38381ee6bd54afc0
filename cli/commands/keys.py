"""``lineside keys``: who may connect from other machines, and what he may do."""

from __future__ import annotations

import dataclasses
import time
from typing import Annotated, Literal

import typer

from lineside.bus.auth.keyring import Credential, Keyring, keys_folder
from lineside.bus.errors import UsageError
from lineside.bus.settings import Settings
from lineside.cli.output import JsonOption, print_json, table

Action = Literal["new", "list", "revoke"]


def keys(
    action: Annotated[Action, typer.Argument(help="What to do.")],
    name: Annotated[str, typer.Argument(help="What the key is called.")] = "",
    role: Annotated[
        list[str] | None,
        typer.Option(help="What it may do: emit, read, control or admin; may be repeated."),
    ] = None,
    runs: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Only runs whose id fits, as nlp-*; may be repeated."),
    ] = None,
    token: Annotated[
        bool, typer.Option("--token", help="Make a token for the dashboard, not a key.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Make, list and revoke keys and tokens.

    Keys are to the broker, tokens to the dashboard. As `lineside keys new node7 --role emit`, on
    the machine of the broker. A change takes effect within a second, without a restart.
    """
    keyring = Keyring(keys_folder(Settings.from_env().home))
    if action == "list":
        _list(keyring, json)
    elif not name:
        raise UsageError(f"keys {action}: NAME is missing; expected what the key is called")
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
            typer.echo(
                f"{path}\n"
                "Bring this file to the other machine, readable for its user alone, and set there\n"
                "  LINESIDE_KEY=/path/to/it LINESIDE_BROKER=tcp://THIS-MACHINE:7430"
            )


def _new_token(
    keyring: Keyring, name: str, roles: list[str] | tuple[()], runs: object, json: bool
) -> None:
    if runs:
        raise UsageError("--runs: a token is for every run; only keys can be limited to some")
    new_token = keyring.new_token(name, roles)
    if json:
        print_json({"name": name, "what": "token", "token": new_token})
    else:
        typer.echo(f"{new_token}\nIt is shown this once: what is kept is only a hash of it.")


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
