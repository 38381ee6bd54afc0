"""The key file with which a client authenticates at a broker."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path

from lineside.bus.errors import SettingsError

_KEY_LENGTH = 40  # characters of a CURVE key in Z85
_EXPECTED = "expected a file that `lineside keys new` wrote on the broker's machine"


@dataclass(frozen=True)
class KeyFile:
    """A key pair called ``name``, and the public key of its ``broker``.

    All three are CURVE keys as 40 characters of Z85.
    """

    name: str
    public: str
    secret: str
    broker: str

    @classmethod
    def read(cls, path: Path, name: str = "LINESIDE_KEY", expected: str = _EXPECTED) -> KeyFile:
        """Read ``path``. Errors call it ``name`` and give ``expected`` as the remedy.

        Raises:
            SettingsError: it cannot be read, is open to other users, or is no key file.
        """
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                raw = json.loads(file.read(4096))
            found = cls(**{part: raw[part] for part in cls.__dataclass_fields__})
        except OSError as error:
            why = f"it cannot be read ({error.strerror}); {expected}"
            raise SettingsError(name, path, why) from error
        except (ValueError, KeyError, TypeError) as error:
            raise SettingsError(name, path, expected) from error
        keys = (found.public, found.secret, found.broker)
        if not all(
            isinstance(key, str) and len(key) == _KEY_LENGTH and key.isascii() for key in keys
        ):
            raise SettingsError(name, path, expected)
        if stat.S_IMODE(mode) & 0o077:
            why = f"others on this machine may read it; chmod 600 {path}"
            raise SettingsError(name, path, why)
        return found

    def write(self, path: Path) -> None:
        """Create the file with mode 0600.

        Raises:
            OSError: it cannot be created, or exists already.
        """
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            json.dump(asdict(self), file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(fd)
