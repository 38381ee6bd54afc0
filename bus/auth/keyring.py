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

from lineside.bus.auth.key_file import KeyFile
from lineside.bus.auth.roles import EMIT, ROLES, Principal
from lineside.bus.errors import KeyNameError, SettingsError
from lineside.bus.settings import make_private_folder

log = logging.getLogger("lineside")

KEY, TOKEN = "key", "token"
TOKEN_PREFIX = "ls_"  # noqa: S105 - how a token begins, so that one is recognised in a file
_LIST_FILE = "list.json"
_BROKER_KEY_FILE = "broker.key"
_EXPECTED = (
    "expected what the first `lineside keys new` wrote there; put a copy back, or remove it: then "
    "the next `lineside keys new` makes another, for which every key has to be made anew"
)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_RUN_PATTERN = re.compile(r"[A-Za-z0-9._*-]{1,128}")


@dataclass(frozen=True)
class Credential:
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
    def rights(self) -> Principal:
        return Principal(self.name, frozenset(self.roles), tuple(self.runs))


class Keyring:
    """The list in ``folder``, read again whenever somebody changed it.

    A list that cannot be read lets nobody in, and is not written over.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / _LIST_FILE
        self._file_signature: tuple[int, int, int] | None = None
        self._credentials: dict[str, Credential] = {}
        self.read_error = ""
        """Why the list cannot be read, if it cannot."""
        self.generation = 0
        """How often another list than before was read."""

    def credentials(self) -> list[Credential]:
        """All of it, the oldest first, revoked ones too."""
        self.refresh()
        return list(self._credentials.values())

    def active(self, what: str) -> list[Credential]:
        """Keys, or tokens, that are not revoked."""
        return [
            credential
            for credential in self.credentials()
            if credential.what == what and not credential.revoked
        ]

    def find(self, what: str, proof: str) -> Credential | None:
        """The key or token with that proof, which may be revoked."""
        self.refresh()
        found = self._credentials.get(proof)
        return found if found is not None and found.what == what else None

    def refresh(self) -> None:
        """Read the list if it has changed; costs a microsecond or two when it has not."""
        try:
            now = os.stat(self._path)  # noqa: PTH116 - asked for each request and each message
            signature = (now.st_ino, now.st_mtime_ns, now.st_size)
        except FileNotFoundError:
            signature = (0, 0, 0)
        except OSError as error:
            log.warning("the list of keys %s cannot be read: %s", self._path, error)
            signature = (-1, 0, 0)
        if signature != self._file_signature:
            self._file_signature = signature
            self._credentials = {credential.proof: credential for credential in self._read()}
            self.generation += 1

    def raise_if_unreadable(self) -> None:
        """Read the list if it has changed.

        Raises:
            SettingsError: it is there and cannot be read.
        """
        self.refresh()
        if self.read_error:
            hint = "mend it or put a copy back; or remove it, and every key and token with it"
            raise SettingsError("the list of keys", self._path, f"{self.read_error}; {hint}")

    def broker_key(self) -> KeyFile:
        """The broker's own key pair.

        Raises:
            SettingsError: there is none, or it cannot be used.
        """
        return KeyFile.read(self.folder / _BROKER_KEY_FILE, "the broker's own key", _EXPECTED)

    def new_key(self, name: str, roles: Sequence[str], runs: Sequence[str] = ()) -> Path:
        """Make a key, and the broker's own if it has none yet; the file to hand over.

        Raises:
            KeyNameError: a name that cannot be, or is in use, a role there is none of, or a
                pattern that fits no run.
            SettingsError: the list, or the broker's own key, is there and cannot be read.
            OSError: a file cannot be written.
        """
        import zmq

        with self._locked():
            self._validate(name, roles, runs)
            if not (self.folder / _BROKER_KEY_FILE).exists():
                public, secret = (part.decode() for part in zmq.curve_keypair())
                KeyFile("broker", public, secret, public).write(self.folder / _BROKER_KEY_FILE)
            public, secret = (part.decode() for part in zmq.curve_keypair())
            path = self.folder / f"{name}.key"
            path.unlink(missing_ok=True)  # of a revoked one
            KeyFile(name, public, secret, self.broker_key().public).write(path)
            self._save(Credential(name, KEY, public, tuple(roles), tuple(runs), time.time()))
        return path

    def new_token(self, name: str, roles: Sequence[str]) -> str:
        """Make a token for the dashboard; only its hash is kept.

        Raises:
            KeyNameError: a name that cannot be, or is in use, or a role there is none of.
            SettingsError: the list is there and cannot be read.
            OSError: the list cannot be written.
        """
        token = TOKEN_PREFIX + secrets.token_urlsafe(32)
        with self._locked():
            self._validate(name, roles)
            if EMIT in roles:
                raise KeyNameError(name, f"nobody trains over the dashboard: {EMIT} is for keys")
            self._save(Credential(name, TOKEN, token_hash(token), tuple(roles), (), time.time()))
        return token

    def revoke(self, name: str) -> Credential:
        """Let a key or token in no more; its file here is removed.

        Raises:
            KeyNameError: there is none of that name.
            SettingsError: the list is there and cannot be read.
            OSError: the list cannot be written.
        """
        with self._locked():
            for credential in self._credentials.values():
                if credential.name == name and not credential.revoked:
                    revoked = Credential(**{**asdict(credential), "revoked": time.time()})
                    self._save(revoked)
                    (self.folder / f"{name}.key").unlink(missing_ok=True)
                    return revoked
        raise KeyNameError(name, "no key or token of that name is good; `lineside keys list`")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone with the newest list."""
        make_private_folder(self.folder)
        fd = os.open(
            self.folder / f"{_LIST_FILE}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            self._file_signature = None
            self.raise_if_unreadable()  # what is written next would be all there is
            yield
        finally:
            os.close(fd)

    def _validate(self, name: str, roles: Sequence[str], runs: Sequence[str] = ()) -> None:
        if not _NAME.fullmatch(name) or name == "broker":
            expected = "expected 1 to 64 of A-Z a-z 0-9 . _ - not beginning with . or -"
            raise KeyNameError(name, f"{expected}, and not broker")
        if any(
            credential.name == name and not credential.revoked
            for credential in self._credentials.values()
        ):
            raise KeyNameError(name, f"it is in use; `lineside keys revoke {name}` frees it")
        unknown = [role for role in roles if role not in ROLES]
        if unknown or not roles:
            which = f"role {unknown[0]!r} is none" if unknown else "it needs a role"
            raise KeyNameError(name, f"{which}: expected {', '.join(ROLES)}")
        for pattern in runs:
            if not _RUN_PATTERN.fullmatch(pattern):
                expected = "expected an id, or as nlp-*: 1 to 128 of A-Z a-z 0-9 . _ - *"
                raise KeyNameError(name, f"no run fits {pattern!r}: {expected}")

    def _save(self, credential: Credential) -> None:
        self._credentials[credential.proof] = credential
        text = json.dumps(
            {"keys": [asdict(credential) for credential in self._credentials.values()]}, indent=1
        )
        path = self._path.with_name(f"{_LIST_FILE}.new")
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

    def _read(self) -> list[Credential]:
        self.read_error = ""
        try:
            return [
                _parse_credential(credential)
                for credential in json.loads(self._path.read_bytes())["keys"]
            ]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            self.read_error = f"{type(error).__name__}: {error}"
            log.warning(
                "the list of keys %s cannot be read, nobody is let in: %s", self._path, error
            )
            return []


def _parse_credential(raw: dict[str, Any]) -> Credential:
    credential = Credential(**{**raw, "roles": tuple(raw["roles"]), "runs": tuple(raw["runs"])})
    texts = (
        credential.name,
        credential.what,
        credential.proof,
        *credential.roles,
        *credential.runs,
    )
    if not all(isinstance(text, str) and text for text in texts):
        raise TypeError(f"{raw} is no key")
    return credential


def token_hash(token: str) -> str:
    """How the list knows ``token``; of 256 random bits a quick hash says nothing."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def keys_folder(home: Path) -> Path:
    """Where the keys of ``home`` are."""
    return home / "keys"


def listen_key_pair(keyring: Keyring, address: str) -> KeyFile:
    """The broker's key pair to listen at ``address`` with, if there was ever anybody to let in.

    Who is on the broker's own machine does not lose it with the last key.

    Raises:
        SettingsError: there never was, or there is no key pair.
    """
    keys = [credential for credential in keyring.credentials() if credential.what == KEY]
    if not keys and not keyring.read_error:
        raise SettingsError(
            "--listen",
            address,
            "nobody could connect, because there is no key; make one first: "
            "lineside keys new NAME --role emit",
        )
    if keys and all(credential.revoked for credential in keys):
        log.warning("every key is revoked: nobody is let in until `lineside keys new` makes one")
    return keyring.broker_key()
