"""Settings from the environment, read once into one frozen object."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lineside.bus.errors import SettingsError
from lineside.bus.protocol.addresses import with_key
from lineside.bus.protocol.events import is_run_id

DASHBOARD_PORT = 7431
"""The port on which the dashboard listens by default."""
EXPORTER_PORT = 9743
"""The port on which the exporter listens by default."""
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"", "0", "false", "no", "off"}


@dataclass(frozen=True)
class Settings:
    """Paths, addresses and names; each field has one environment variable.

    ``home`` LINESIDE_HOME; ``broker`` LINESIDE_BROKER, a ZeroMQ address; ``spool`` LINESIDE_SPOOL;
    ``store`` LINESIDE_STORE, an SQLAlchemy URL; ``run_id`` LINESIDE_RUN_ID; ``run_name``
    LINESIDE_RUN_NAME; ``project`` LINESIDE_PROJECT; ``tags`` LINESIDE_TAGS, separated by commas;
    ``group`` LINESIDE_GROUP; ``notes`` LINESIDE_NOTES; ``disabled`` LINESIDE_DISABLED; ``key``
    LINESIDE_KEY, the file to show a broker of another machine, which ``broker`` then names too;
    ``quiet`` LINESIDE_QUIET; ``wait_for_stopper`` LINESIDE_WAIT_FOR_STOPPER, in seconds;
    ``stop_on_sigterm`` LINESIDE_STOP_ON_SIGTERM, None if it is not set; ``hold_checkpoints``
    LINESIDE_HOLD_CHECKPOINTS, None if it is not set; ``sampler`` LINESIDE_SAMPLER, None if it is
    not set; ``take_over`` LINESIDE_TAKE_OVER.
    """

    home: Path
    broker: str
    spool: Path
    store: str
    run_id: str | None = None
    run_name: str | None = None
    project: str | None = None
    tags: tuple[str, ...] = ()
    group: str | None = None
    notes: str | None = None
    disabled: bool = False
    key: Path | None = None
    wait_for_stopper: float | None = None
    stop_on_sigterm: bool | None = None
    hold_checkpoints: bool | None = None
    quiet: bool = False
    sampler: bool | None = None
    take_over: bool = False

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Settings from ``env`` (default ``os.environ``); creates nothing.

        Raises:
            SettingsError: a value that cannot be used.
        """
        env = os.environ if env is None else env
        home = _path(env, "LINESIDE_HOME") or _default_home(env)
        run_id = env.get("LINESIDE_RUN_ID") or None
        if run_id is not None and not is_run_id(run_id):
            raise SettingsError(
                "LINESIDE_RUN_ID",
                run_id,
                "expected 1 to 128 of A-Z a-z 0-9 . _ - not beginning with . or -, and not audit",
            )
        key = _path(env, "LINESIDE_KEY")
        return cls(
            home=home,
            broker=with_key(env.get("LINESIDE_BROKER") or f"ipc://{home}/bus.sock", key),
            spool=_path(env, "LINESIDE_SPOOL") or home / "spool",
            store=env.get("LINESIDE_STORE") or f"sqlite:///{home}/store.db",
            run_id=run_id,
            run_name=env.get("LINESIDE_RUN_NAME") or None,
            project=env.get("LINESIDE_PROJECT") or None,
            tags=tuple(filter(None, map(str.strip, env.get("LINESIDE_TAGS", "").split(",")))),
            group=env.get("LINESIDE_GROUP") or None,
            notes=env.get("LINESIDE_NOTES") or None,
            disabled=_flag(env, "LINESIDE_DISABLED"),
            key=key,
            wait_for_stopper=_seconds(env, "LINESIDE_WAIT_FOR_STOPPER"),
            stop_on_sigterm=_optional_flag(env, "LINESIDE_STOP_ON_SIGTERM"),
            hold_checkpoints=_optional_flag(env, "LINESIDE_HOLD_CHECKPOINTS"),
            quiet=_flag(env, "LINESIDE_QUIET"),
            sampler=_optional_flag(env, "LINESIDE_SAMPLER"),
            take_over=_flag(env, "LINESIDE_TAKE_OVER"),
        )

    @property
    def journal(self) -> Path:
        """The broker's journal."""
        return self.home / "journal.db"


def make_private_folder(path: Path) -> Path:
    """Create ``path`` and the folders above it with mode 0700, where they are missing.

    Raises:
        SettingsError: it cannot be made or written.
    """
    try:
        # One by one: ``parents`` would create the folders above with the default mode.
        for folder in (*reversed(path.parents), path):
            if not folder.is_dir():
                folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            "folder", path, f"it cannot be made ({error.strerror}); set LINESIDE_HOME elsewhere"
        ) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise SettingsError("folder", path, "it is not writable; set LINESIDE_HOME elsewhere")
    return path


def _default_home(env: Mapping[str, str]) -> Path:
    state = env.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "lineside"


def _path(env: Mapping[str, str], name: str) -> Path | None:
    value = env.get(name)
    if not value:
        return None
    path = Path(value).expanduser()
    if not path.is_absolute():
        raise SettingsError(name, value, "expected an absolute path")
    return path


def _optional_flag(env: Mapping[str, str], name: str) -> bool | None:
    return _flag(env, name) if env.get(name) else None


def _flag(env: Mapping[str, str], name: str) -> bool:
    value = env.get(name, "").strip().lower()
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise SettingsError(name, value, "expected 1 or 0")


def _seconds(env: Mapping[str, str], name: str) -> float | None:
    value = env.get(name)
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise SettingsError(name, value, "expected seconds, 0 or more")
    return seconds
