"""The list of keys and tokens of one home, with the roles of each."""

from __future__ import annotations

import contextlib
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
from lineside.bus.auth.roles import ANNOTATE, EMIT, ROLES, Principal, is_reserved_producer
from lineside.bus.errors import KeyNameError, SettingsError
from lineside.bus.file_lock import FileLock
from lineside.bus.settings import make_private_folder

log = logging.getLogger("lineside")

KEY, TOKEN = "key", "token"
TOKEN_PREFIX = "ls_"  # noqa: S105 - how a token begins, so that one is recognised in a file
_LIST_FILE = "list.json"
_BROKER_KEY_FILE = "broker.key"
_EXPECTED = (
    "expected the file that the first `lineside keys new` wrote; restore a copy, or remove it: "
    "then the next `lineside keys new` makes another, and every key has to be made again"
)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_RUN_PATTERN = re.compile(r"[A-Za-z0-9._*-]{1,128}")


@dataclass(frozen=True)
class Credential:
    """A key or token.

    ``proof`` is the public key, or the SHA-256 of the token. ``created`` and ``revoked`` are
    seconds since the epoch; ``revoked`` is 0 while the credential is active.
    """

    name: str
    what: str
    proof: str
    roles: tuple[str, ...]
    runs: tuple[str, ...]
    created: float
    revoked: float = 0.0

    @property
    def principal(self) -> Principal:
        return Principal(self.name, frozenset(self.roles), tuple(self.runs))


class Keyring:
    """The list in ``folder``, read again whenever its file changes.

    A list that cannot be read authenticates no client, and is never overwritten.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / _LIST_FILE
        self._file_signature: tuple[int, int, int] | None = None
        self._credentials: dict[str, Credential] = {}
        self.read_error = ""
        """Why the list cannot be read; empty if it can."""
        self.generation = 0
        """How often the list has changed."""

    def credentials(self) -> list[Credential]:
        """Every key and token, the oldest first, revoked ones too."""
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
        """The key or token with this proof; it may be revoked."""
        self.refresh()
        found = self._credentials.get(proof)
        return found if found is not None and found.what == what else None

    def refresh(self) -> None:
        """Read the list if its file has changed; one ``stat`` if it has not."""
        try:
            now = os.stat(self._path)  # noqa: PTH116 - called for each request and each message
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
            SettingsError: it exists and cannot be read.
        """
        self.refresh()
        if self.read_error:
            hint = "repair it or restore a copy; or remove it, which removes every key and token"
            raise SettingsError("the list of keys", self._path, f"{self.read_error}; {hint}")

    def broker_key(self) -> KeyFile:
        """The broker's own key pair.

        Raises:
            SettingsError: it is missing, or cannot be used.
        """
        return KeyFile.read(self.folder / _BROKER_KEY_FILE, "the broker's own key", _EXPECTED)

    def new_key(self, name: str, roles: Sequence[str], runs: Sequence[str] = ()) -> Path:
        """Make a key, and the broker's own key if it is missing; return the key's file.

        Raises:
            KeyNameError: an invalid name or one in use, an unknown role, or an invalid pattern.
            SettingsError: the list, or the broker's own key, exists and cannot be read.
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
            path.unlink(missing_ok=True)  # of a revoked key
            KeyFile(name, public, secret, self.broker_key().public).write(path)
            self._save(Credential(name, KEY, public, tuple(roles), tuple(runs), time.time()))
        return path

    def new_token(self, name: str, roles: Sequence[str]) -> str:
        """Make a token for the dashboard; only its hash is kept.

        Raises:
            KeyNameError: an invalid name or one in use, or an unknown role.
            SettingsError: the list exists and cannot be read.
            OSError: the list cannot be written.
        """
        token = TOKEN_PREFIX + secrets.token_urlsafe(32)
        with self._locked():
            self._validate(name, roles)
            for role in (EMIT, ANNOTATE):
                if role in roles:
                    raise KeyNameError(name, f"the dashboard takes no events: {role} is for keys")
            self._save(Credential(name, TOKEN, token_hash(token), tuple(roles), (), time.time()))
        return token

    def revoke(self, name: str) -> Credential:
        """Revoke a key or token, and remove its file here.

        Raises:
            KeyNameError: no active key or token has this name.
            SettingsError: the list exists and cannot be read.
            OSError: the list cannot be written.
        """
        with self._locked():
            for credential in self._credentials.values():
                if credential.name == name and not credential.revoked:
                    revoked = Credential(**{**asdict(credential), "revoked": time.time()})
                    self._save(revoked)
                    (self.folder / f"{name}.key").unlink(missing_ok=True)
                    return revoked
        raise KeyNameError(name, "no active key or token has this name; run `lineside keys list`")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Read the newest list and keep other processes from changing it."""
        make_private_folder(self.folder)
        with FileLock(self.folder / f"{_LIST_FILE}.lock"):
            self._file_signature = None
            self.raise_if_unreadable()  # or the next write would lose what it holds
            yield

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
            problem = f"no role is called {unknown[0]!r}" if unknown else "it needs a role"
            raise KeyNameError(name, f"{problem}: expected {', '.join(ROLES)}")
        if ANNOTATE in roles and is_reserved_producer(name):
            why = "it is the producer name of a training or of a process of Lineside"
            raise KeyNameError(name, f"{why}; give a key with the role {ANNOTATE} another name")
        for pattern in runs:
            if not _RUN_PATTERN.fullmatch(pattern):
                expected = "expected an id, or a pattern as nlp-*: 1 to 128 of A-Z a-z 0-9 . _ - *"
                raise KeyNameError(name, f"no run matches {pattern!r}: {expected}")

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
            os.fsync(folder)  # or a revoked key may be active again after a power cut
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
                "the list of keys %s cannot be read, no key is accepted: %s", self._path, error
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
        raise TypeError(f"{raw} is not a key")
    return credential


def token_hash(token: str) -> str:
    """The proof of ``token``; it has 256 random bits, so a fast hash is safe."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def keys_folder(home: Path) -> Path:
    """The folder of the keys of ``home``."""
    return home / "keys"


def listen_key_pair(keyring: Keyring, address: str) -> KeyFile:
    """The broker's key pair with which it listens at ``address``.

    When every key is revoked the broker still listens: its own machine must not lose it.

    Raises:
        SettingsError: no key was ever made, or the broker's own key is missing.
    """
    keys = [credential for credential in keyring.credentials() if credential.what == KEY]
    if not keys and not keyring.read_error:
        raise SettingsError(
            "--listen",
            address,
            "no client could connect, because there is no key; make one first: "
            "lineside keys new NAME --role emit",
        )
    if keys and all(credential.revoked for credential in keys):
        log.warning("every key is revoked: no client can connect until `lineside keys new`")
    return keyring.broker_key()
