"""``python -m lineside.cli.first_start``: makes keys, tokens and passwords of a stack, once.

For a stack of containers, where no person has a shell before it runs. Each secret is made where
there was none of its name before; one that was revoked is not made again. At each start the files
are made to agree with the keys and passwords, which a restore may have replaced. The token of the
dashboard is printed when it is made. The others are files for the containers that need them.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from lineside.bus.auth.keyring import TOKEN, Keyring, keys_folder, token_hash
from lineside.bus.errors import LinesideError
from lineside.bus.settings import DASHBOARD_PORT, Settings

OWNER, TRAINER, SCRAPER = "owner", "trainer", "prometheus"
_FOR_EVERYONE, _PRIVATE = 0o444, 0o600


def make_owner_token(keyring: Keyring) -> str | None:
    """The token of the person who owns the stack; None if one was made before."""
    return None if _was_made(keyring, OWNER) else keyring.new_token(OWNER, ["admin"])


def make_trainer_key(keyring: Keyring) -> Path:
    """The file of the key for trainings on other machines, made if there never was one."""
    if not _was_made(keyring, TRAINER):
        keyring.new_key(TRAINER, ["emit"])
    return keyring.folder / f"{TRAINER}.key"


def make_scrape_token(keyring: Keyring, file: Path) -> None:
    """Store a token that may read the exporter in ``file``, unless one that is valid is there.

    Only its hash is kept: where the file is gone, so is the token, and a new one replaces it. So it
    is for a token of which the keys know nothing, as after the restore of another home.
    """
    if file.exists() and keyring.find(TOKEN, token_hash(file.read_text())) is not None:
        return
    if any(one.name == SCRAPER and not one.revoked for one in keyring.credentials()):
        keyring.revoke(SCRAPER)
    write_secret(file, keyring.new_token(SCRAPER, ["read"]))


def make_password(file: Path) -> str:
    """The password in ``file``, made if there is none."""
    if not file.exists():
        write_secret(file, secrets.token_urlsafe(24))
    return file.read_text()


def write_secret(file: Path, text: str, mode: int = _FOR_EVERYONE) -> None:
    """Write ``text`` whole or not at all.

    Containers read it as users of their own, so every user may: only those that mount its volume
    see the file.
    """
    draft = file.with_name(f".{file.name}")
    draft.unlink(missing_ok=True)  # of a start that was killed
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE)
    with os.fdopen(fd, "w") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(fd)
        os.fchmod(fd, mode)
    draft.replace(file)


def make_pgpass(file: Path, password: str) -> None:
    """Write the password file of libpq, which reads only a private one.

    The home may be a restored one, with the password of another server.
    """
    text = f"*:*:*:*:{password}\n"
    if not file.exists() or file.read_text() != text:
        write_secret(file, text, _PRIVATE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what is missing, and print the token of the dashboard if it is new."""
    parser = argparse.ArgumentParser(prog="python -m lineside.cli.first_start", description=__doc__)
    parser.add_argument("--scrape-token", type=Path, metavar="FILE", help="token for Prometheus")
    parser.add_argument("--grafana-password", type=Path, metavar="FILE", help="of its user admin")
    parser.add_argument("--postgres-password", type=Path, metavar="FILE", help="for the server")
    parser.add_argument("--pgpass", type=Path, metavar="FILE", help="the same, for the clients")
    options = parser.parse_args(arguments)
    try:
        keyring = Keyring(keys_folder(Settings.from_env().home))
        lines = []
        key = make_trainer_key(keyring)
        if options.scrape_token:
            make_scrape_token(keyring, options.scrape_token)
        if options.grafana_password and not options.grafana_password.exists():
            password = make_password(options.grafana_password)
            lines.append(f"  Grafana     user admin, password {password}\n")
        if options.postgres_password:
            password = make_password(options.postgres_password)
            if options.pgpass:
                make_pgpass(options.pgpass, password)
        if token := make_owner_token(keyring):  # the last: what is shown once is shown
            lines.insert(0, f"  page        http://localhost:{DASHBOARD_PORT}\n")
            lines.insert(1, f"  token       {token}\n")
            lines.append(f"  key         {key}, for trainings on other machines\n")
    except (LinesideError, OSError) as error:
        sys.stderr.write(f"lineside: {error}\n")
        return 1
    if lines:
        text = "Made at this first start, and shown only now:\n"
        sys.stdout.write(text + "".join(lines))
    else:
        sys.stdout.write("Keys and tokens were made at an earlier start.\n")
    return 0


def _was_made(keyring: Keyring, name: str) -> bool:
    return any(credential.name == name for credential in keyring.credentials())


if __name__ == "__main__":
    sys.exit(main())
