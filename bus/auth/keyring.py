"""The list of keys and tokens of one home: who is let in, and with which rights."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lineside.bus.auth.keyfile import KeyFile
from lineside.bus.auth.rights import EMIT, ROLES, Rights
from lineside.bus.errors import KeyNameError, SettingsError
from lineside.bus.settings import private_folder

log = logging.getLogger("lineside")

KEY, TOKEN = "key", "token"
TOKEN_PREFIX = "ls_"  # noqa: S105 - how a token begins, so that one is recognised in a file
_LIST = "list.json"
_BROKER = "broker.key"
_EXPECTED = (
    "expected what the first `lineside keys new` wrote there; put a copy back, or remove it: then "
    "the next `lineside keys new` makes another, for which every key has to be made anew"
)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_RUNS = re.compile(r"[A-Za-z0-9._*-]{1,128}")


@dataclass(frozen=True)
class Entry:
    """A key or token. ``proof`` is the public key, or the SHA-256 of the token; ``created`` and
    ``revoked`` are seconds since the epoch, ``revoked`` 0 while it is good."""

    name: str
    what: str
    proof: str
    roles: tuple[str, ...]
    runs: tuple[str, ...]
    created: float
    revoked: float = 0.0

    @property
    def rights(self) -> Rights:
        return Rights(self.name, frozenset(self.roles), tuple(self.runs))


class Keyring:
    """The list in ``folder``, read again whenever somebody changed it.

    A list that cannot be read lets nobody in, and is not written over.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / _LIST
        self._seen: tuple[int, int, int] | None = None
        self._entries: dict[str, Entry] = {}
        self.unreadable = ""
        """Why the list cannot be read, if it cannot."""
        self.changes = 0
        """How often another list than before was read."""

    def entries(self) -> list[Entry]:
        """All of it, the oldest first, revoked ones too."""
        self.refresh()
        return list(self._entries.values())

    def good(self, what: str) -> list[Entry]:
        """Keys, or tokens, that are not revoked."""
        return [one for one in self.entries() if one.what == what and not one.revoked]

    def find(self, what: str, proof: str) -> Entry | None:
        """The key or token with that proof, which may be revoked."""
        self.refresh()
        found = self._entries.get(proof)
        return found if found is not None and found.what == what else None

    def refresh(self) -> None:
        """Read the list if it has changed; costs a microsecond or two when it has not."""
        try:
            now = os.stat(self._path)  # noqa: PTH116 - asked for each request and each message
            seen = (now.st_ino, now.st_mtime_ns, now.st_size)
        except FileNotFoundError:
            seen = (0, 0, 0)
        except OSError as error:
            log.warning("the list of keys %s cannot be read: %s", self._path, error)
            seen = (-1, 0, 0)
        if seen != self._seen:
            self._seen = seen
            self._entries = {one.proof: one for one in self._read()}
            self.changes += 1

    def check(self) -> None:
        """Read the list if it has changed.

        Raises:
            SettingsError: it is there and cannot be read.
        """
        self.refresh()
        if self.unreadable:
            hint = "mend it or put a copy back; or remove it, and every key and token with it"
            raise SettingsError("the list of keys", self._path, f"{self.unreadable}; {hint}")

    def broker(self) -> KeyFile:
        """The broker's own key pair.

        Raises:
            SettingsError: there is none, or it cannot be used.
        """
        return KeyFile.read(self.folder / _BROKER, "the broker's own key", _EXPECTED)

    def new_key(self, name: str, roles: Sequence[str], runs: Sequence[str] = ()) -> Path:
        """Make a key, and the broker's own if it has none yet; the file to hand over.

        Raises:
            KeyNameError: a name that cannot be, or is in use, a role there is none of, or a
                pattern that fits no run.
            SettingsError: the list, or the broker's own key, is there and cannot be read.
            OSError: a file cannot be written.
        """
        import zmq

        with self._changing():
            self._check(name, roles, runs)
            if not (self.folder / _BROKER).exists():
                public, secret = (part.decode() for part in zmq.curve_keypair())
                KeyFile("broker", public, secret, public).write(self.folder / _BROKER)
            public, secret = (part.decode() for part in zmq.curve_keypair())
            path = self.folder / f"{name}.key"
            path.unlink(missing_ok=True)  # of a revoked one
            KeyFile(name, public, secret, self.broker().public).write(path)
            self._add(Entry(name, KEY, public, tuple(roles), tuple(runs), time.time()))
        return path

    def new_token(self, name: str, roles: Sequence[str]) -> str:
        """Make a token for the dashboard; only its hash is kept.

        Raises:
            KeyNameError: a name that cannot be, or is in use, or a role there is none of.
            SettingsError: the list is there and cannot be read.
            OSError: the list cannot be written.
        """
        token = TOKEN_PREFIX + secrets.token_urlsafe(32)
        with self._changing():
            self._check(name, roles)
            if EMIT in roles:
                raise KeyNameError(name, f"nobody trains over the dashboard: {EMIT} is for keys")
            self._add(Entry(name, TOKEN, hash_token(token), tuple(roles), (), time.time()))
        return token

    def revoke(self, name: str) -> Entry:
        """Let a key or token in no more; its file here is removed.

        Raises:
            KeyNameError: there is none of that name.
            SettingsError: the list is there and cannot be read.
            OSError: the list cannot be written.
        """
        with self._changing():
            for one in self._entries.values():
                if one.name == name and not one.revoked:
                    revoked = Entry(**{**asdict(one), "revoked": time.time()})
                    self._add(revoked)
                    (self.folder / f"{name}.key").unlink(missing_ok=True)
                    return revoked
        raise KeyNameError(name, "no key or token of that name is good; `lineside keys list`")

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Alone with the newest list."""
        private_folder(self.folder)
        fd = os.open(self.folder / f"{_LIST}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            self._seen = None
            self.check()  # what is written next would be all there is
            yield
        finally:
            os.close(fd)

    def _check(self, name: str, roles: Sequence[str], runs: Sequence[str] = ()) -> None:
        if not _NAME.fullmatch(name) or name == "broker":
            expected = "expected 1 to 64 of A-Z a-z 0-9 . _ - not beginning with . or -"
            raise KeyNameError(name, f"{expected}, and not broker")
        if any(one.name == name and not one.revoked for one in self._entries.values()):
            raise KeyNameError(name, f"it is in use; `lineside keys revoke {name}` frees it")
        unknown = [role for role in roles if role not in ROLES]
        if unknown or not roles:
            which = f"role {unknown[0]!r} is none" if unknown else "it needs a role"
            raise KeyNameError(name, f"{which}: expected {', '.join(ROLES)}")
        for pattern in runs:
            if not _RUNS.fullmatch(pattern):
                expected = "expected an id, or as nlp-*: 1 to 128 of A-Z a-z 0-9 . _ - *"
                raise KeyNameError(name, f"no run fits {pattern!r}: {expected}")

    def _add(self, entry: Entry) -> None:
        self._entries[entry.proof] = entry
        text = json.dumps({"keys": [asdict(one) for one in self._entries.values()]}, indent=1)
        path = self._path.with_name(f"{_LIST}.new")
        with os.fdopen(
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w"
        ) as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        path.replace(self._path)
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)  # or a revoked key may be good again after a power cut
        finally:
            os.close(folder)

    def _read(self) -> list[Entry]:
        self.unreadable = ""
        try:
            return [_entry(one) for one in json.loads(self._path.read_bytes())["keys"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            self.unreadable = f"{type(error).__name__}: {error}"
            log.warning(
                "the list of keys %s cannot be read, nobody is let in: %s", self._path, error
            )
            return []


def _entry(said: dict[str, Any]) -> Entry:
    entry = Entry(**{**said, "roles": tuple(said["roles"]), "runs": tuple(said["runs"])})
    texts = (entry.name, entry.what, entry.proof, *entry.roles, *entry.runs)
    if not all(isinstance(text, str) and text for text in texts):
        raise TypeError(f"{said} is no key")
    return entry


def hash_token(token: str) -> str:
    """How the list knows ``token``; of 256 random bits a quick hash says nothing."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def keys_folder(home: Path) -> Path:
    """Where the keys of ``home`` are."""
    return home / "keys"


def check_can_listen(keyring: Keyring, address: str) -> KeyFile:
    """The broker's key pair to listen at ``address`` with, if there was ever anybody to let in.

    Who is on the broker's own machine does not lose it with the last key.

    Raises:
        SettingsError: there never was, or there is no key pair.
    """
    keys = [one for one in keyring.entries() if one.what == KEY]
    if not keys and not keyring.unreadable:
        raise SettingsError(
            "--listen",
            address,
            "nobody could connect, because there is no key; make one first: "
            "lineside keys new NAME --role emit",
        )
    if keys and all(one.revoked for one in keys):
        log.warning("every key is revoked: nobody is let in until `lineside keys new` makes one")
    return keyring.broker()
