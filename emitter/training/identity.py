"""The identity of a process on the bus: its run, attempt and rank."""

from __future__ import annotations

import datetime
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from lineside.bus.protocol.events import Stream, is_run_id, new_attempt
from lineside.bus.settings import Settings
from lineside.emitter.redaction.text import redact_text
from lineside.emitter.training.job_store import distributed

_SLUG_CHARACTERS = 32
_ATTEMPT_TIME = "%Y%m%dT%H%M%S.%f"  # as ``new_attempt`` begins, in microseconds


@dataclass(frozen=True)
class RankInfo:
    """The rank of a process in its job."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @classmethod
    def from_env(cls) -> RankInfo:
        """From torch.distributed, else from RANK, WORLD_SIZE and LOCAL_RANK."""
        local = _integer(os.environ.get("LOCAL_RANK"), 0)
        group = distributed()
        if group is not None:
            return cls(group.get_rank(), group.get_world_size(), local)
        return cls(
            _integer(os.environ.get("RANK"), 0), _integer(os.environ.get("WORLD_SIZE"), 1), local
        )


@dataclass(frozen=True)
class Identity:
    """One attempt of a run, with the ids and names that it has on the bus."""

    run: str
    attempt: str
    name: str
    project: str
    rank_info: RankInfo

    @property
    def stream(self) -> Stream:
        return Stream(self.run, f"rank{self.rank_info.rank}", self.attempt)

    def checkpoint_state(self) -> dict[str, str]:
        """The part of it that is kept for a checkpoint."""
        return {
            "run_id": self.run,
            "attempt": self.attempt,
            "name": self.name,
            "project": self.project,
        }


class LabelOptions(TypedDict, total=False):
    """The keyword arguments that make ``Labels``."""

    tags: Sequence[str]
    group: str | None
    notes: str | None
    config: Mapping[str, Any] | None


@dataclass(frozen=True)
class Labels:
    """The description of a run beside its name; the settings override all but ``config``."""

    tags: Sequence[str] = ()
    group: str | None = None
    notes: str | None = None
    config: Mapping[str, Any] | None = None

    def fact(self, name: str, settings: Settings) -> Any:
        """One of them, as in ``run_start``; None if it is not given."""
        value = getattr(settings, name, None) or getattr(self, name)
        if name == "tags":
            value = [value] if isinstance(value, str) else [str(tag) for tag in value or ()]
        elif name != "config":
            value = optional_text(value)
        return value or None


LABELS = ("tags", "group", "notes", "config")


def optional_text(value: object) -> str | None:
    """``value`` as text, because scripts name a run after a path or the number of a fold."""
    return None if value is None else str(value)


def valid_checkpoint_state(kept: object) -> dict[str, str]:
    """The identity that was kept for a checkpoint; empty if there is no usable one."""
    if not isinstance(kept, Mapping) or not is_run_id(str(kept.get("run_id", ""))):
        return {}
    names = ("run_id", "attempt", "name", "project")
    return {name: kept[name] for name in names if isinstance(kept.get(name), str)}


def new_run_id(hint: str) -> str:
    """A fresh readable run id, sortable within one hint: ``tiny-gpt2-20261121-084512-4f2a1b``."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return f"{slug(hint) or 'run'}-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def describe(trainer_class: str, model: str) -> str:
    """A name for a run without one: ``SFT Llama-3.2-1B`` of an SFTTrainer."""
    return " ".join(filter(None, (trainer_class.removesuffix("Trainer"), _last_part(model))))


def slug(text: str) -> str:
    """The letters, digits and dashes of ``text``, at most 32, fit to begin a run id."""
    words = re.sub(r"[^a-z0-9]+", "-", _last_part(redact_text(text)).lower())
    return words.strip("-")[:_SLUG_CHARACTERS].strip("-")


def new_identity(
    settings: Settings,
    rank_info: RankInfo,
    *,
    run: str,
    name: str | None = None,
    project: str | None = None,
) -> Identity:
    """A new attempt of ``run``, named ``name`` or as the run's id.

    ``LINESIDE_RUN_NAME`` and ``LINESIDE_PROJECT`` override ``name`` and ``project`` here. The
    caller applies ``LINESIDE_RUN_ID``, because it may add to it.
    """
    return Identity(
        run=run,
        attempt=_next_attempt(),
        name=redact_text(settings.run_name or name or run),
        project=redact_text(settings.project or project or "default"),
        rank_info=rank_info,
    )


def _last_part(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _next_attempt() -> str:
    """A new attempt that sorts after every one this process has made."""
    global _last_attempt
    attempt = new_attempt()
    if attempt <= _last_attempt:
        # It does not wait for the clock, which may have been set back by hours.
        last, _, _ = _last_attempt.partition("-")
        at = datetime.datetime.strptime(f"{last}+0000", f"{_ATTEMPT_TIME}%z")
        at += datetime.timedelta(milliseconds=1)
        attempt = f"{at.strftime(_ATTEMPT_TIME)[:-3]}-{secrets.token_hex(2)}"
    _last_attempt = attempt
    return attempt


_last_attempt = ""


def _integer(text: str | None, default: int) -> int:
    try:
        return int(text or default)
    except ValueError:
        return default
