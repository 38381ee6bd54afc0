"""A PostgreSQL server on a Unix socket in a temporary folder, run by a user other than root."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import psycopg
import pytest

READY_SECONDS = 30.0


def find_binaries() -> Path:
    """The folder with ``initdb`` and ``postgres``; without it, skip the test, or fail it on CI."""
    found = shutil.which("postgres")
    if found is not None:
        return Path(found).parent
    versions = Path("/usr/lib/postgresql")
    folders = sorted(versions.glob("*/bin"), key=lambda path: int(path.parent.name))
    if not folders:
        missing = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        missing("PostgreSQL is not installed")
    return folders[-1]


class Postgres:
    """A server that runs inside the context and removes all its files at the end."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self._names = (f"store{number}" for number in itertools.count(1))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Postgres:
        # Not pytest's folder: its path can be too long for a socket.
        self.folder = Path(tempfile.mkdtemp(prefix="lineside-pg-"))
        self._user = _unprivileged_user()
        if self._user is not None:
            shutil.chown(self.folder, self._user)
        self._run("initdb", "-D", self._data, "-U", "lineside", "-A", "trust", "--no-sync")
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={self.folder}"]
        with (self.folder / "log").open("ab") as output:
            self._process = subprocess.Popen(
                [str(self._binaries / "postgres"), "-D", self._data, "-F", *options],
                stdout=output,
                stderr=output,
                user=self._user,
                cwd=self.folder,
            )
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(psycopg.OperationalError), self._connect():
                return
            time.sleep(0.05)
        raise TimeoutError((self.folder / "log").read_text())

    def stop(self) -> None:
        """Stop the server at once and close all connections."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)
            self._process = None

    def new_database(self) -> str:
        """The URL of an empty schema, which is made in 1/50 of the time of a database."""
        name = next(self._names)
        with self._connect() as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        path = quote(f"-csearch_path={name}")
        return f"postgresql:///postgres?host={self.folder}&user=lineside&options={path}"

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(
            host=str(self.folder), user="lineside", dbname="postgres", autocommit=True
        )

    def _run(self, program: str, *args: str) -> None:
        subprocess.run(
            [str(self._binaries / program), *args],
            check=True,
            capture_output=True,
            user=self._user,
            cwd=self.folder,
        )


def _unprivileged_user() -> str | None:
    """The user to run as: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise RuntimeError("there is no user postgres or nobody to run PostgreSQL as")
