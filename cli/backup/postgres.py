"""Dumps a store in PostgreSQL with its own tool."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import URL, make_url

from lineside.bus.errors import LinesideError, UsageError
from lineside.store.database.migrate import VERSION_TABLE
from lineside.store.database.tables import metadata

PROGRAM = "pg_dump"


class DumpError(LinesideError):
    """The database cannot be dumped."""


def dump(store: str, target: Path) -> None:
    """Dump the tables of the store at the URL ``store`` into the new file ``target``.

    The dump is of one moment and locks out no writer.

    Raises:
        UsageError: the program is not installed.
        DumpError: it failed.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise UsageError(
            f"the store is in PostgreSQL, and {PROGRAM} is not installed: install PostgreSQL's "
            "client programs, or use --no-store and back up the database by its own means, before "
            "this backup"
        )
    url = make_url(store)
    tables = [f"--table={name}" for name in (*metadata.tables, VERSION_TABLE)]
    argv = [program, "--format=custom", "--no-owner", "--no-password", "--no-privileges"]
    target.touch(mode=0o600, exist_ok=False)
    done = subprocess.run(
        [*argv, f"--file={target}", *tables, f"--dbname={_address(url)}"],
        env=os.environ | _password_variable(url),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise DumpError(f"{PROGRAM} failed: {' '.join(done.stderr.split())[-1000:]}")


def restore_command(store: str, dump_file: Path) -> str:
    """The command line that restores a dump into the database of the URL ``store``.

    A password is left out: the program asks for it, or takes it from ``PGPASSWORD``.
    """
    argv: Sequence[str] = "pg_restore --clean --if-exists --no-owner --single-transaction".split()  # noqa: SIM905
    return shlex.join([*argv, f"--dbname={_address(make_url(store))}", str(dump_file)])


def _address(url: URL) -> str:
    """The URL for programs of PostgreSQL; a process list shows it, so without the password."""
    query = {name: value for name, value in url.query.items() if name != "password"}
    return URL.create(
        "postgresql", url.username, None, url.host, url.port, url.database, query
    ).render_as_string(hide_password=False)


def _password_variable(url: URL) -> dict[str, str]:
    password = url.password or url.query.get("password")
    return {"PGPASSWORD": str(password)} if password else {}
