"""The keys of the archive of checkpoints in a configuration file, and what the archiver gets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from lineside.bus.checkpoints.hold import HoldLimits
from lineside.bus.errors import UsageError
from lineside.bus.yaml_document import Key
from lineside.cli.configuration.option import CONFIG_VARIABLE
from lineside.cli.configuration.section import Section
from lineside.emitter.redaction.text import REDACTED, redact_text
from lineside.emitter.redaction.values import mask_names, mask_texts
from lineside.subscribers.archiver.files.redaction import Redaction
from lineside.subscribers.archiver.options import ArchiverOptions
from lineside.subscribers.archiver.policy import KeepOptions
from lineside.subscribers.context import RunFilter

if TYPE_CHECKING:
    from lineside.cli.configuration.loading import StackConfiguration

SECTION = "archive"
_EXPECTED = "s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or the path of a folder"
_HARMLESS_OPTIONS = ("endpoint", "region", "allow_http", "virtual_hosted_style_request")
_REMOTE = re.compile(r"(?:s3|gs|az)://[^/?#@]+(?:/[^?#@]*)?")


def archive_url(value: str) -> str:
    """``value``, checked: the address of a bucket, or the path of a folder."""
    has_scheme = ":" in value.partition("/")[0]  # also `s3:/bucket`, which is no folder
    if has_scheme and not value.startswith("file:///") and not _REMOTE.fullmatch(value):
        raise ValueError(_EXPECTED)
    return value


def absolute_url(value: str, folder: Path) -> str:
    """``value`` with a relative path starting from ``folder``."""
    return value if "://" in value or not value else str(folder / Path(value).expanduser())


class Archive(Section):
    """The archiver copies checkpoints to an archive. It runs if there is a `url`."""

    enabled: bool = Field(default=True, description="Run the archiver if there is a `url`.")
    url: Annotated[str, AfterValidator(archive_url)] = Field(
        default="",
        description="Where checkpoints are archived: `s3://`, `gs://` or `az://` with a bucket and "
        "a prefix, or the path of a folder.",
    )
    options: dict[str, str] = Field(
        default={},
        description="Options of the store, such as `endpoint`, `region`, `access_key_id` and "
        "`secret_access_key`; keep secrets in variables.",
    )
    save_total_limit: int = Field(
        default=0, ge=0, description="Keep this many of the newest checkpoints of a run; 0 is all."
    )
    keep_best: int = Field(
        default=0, ge=0, description="Keep this many of the best, for each metric of `monitor`."
    )
    monitor: list[str] = Field(
        default=[],
        description="Metrics that decide which checkpoints are best; none is the metric for the "
        "best model of the training, or else `eval_loss`.",
    )
    mode: Literal["auto", "min", "max"] = Field(
        default="auto",
        description="Whether lower or higher is better: `min`, `max`, or by the name (`auto`).",
    )
    save_best_only: bool = Field(
        default=False,
        description="Keep those that were the best by a metric of `monitor` when "
        "they were saved, and the last.",
    )
    every_steps: int = Field(
        default=0,
        ge=0,
        description="Keep the first checkpoint at or after each multiple of so many steps.",
    )
    every_hours: float = Field(
        default=0.0,
        ge=0,
        description="Keep the first checkpoint of each period of so many hours of the clock (UTC).",
    )
    frequency: int = Field(
        default=1, ge=1, description="Keep every so-many-th checkpoint of an attempt, and the last."
    )
    weights_only: bool = Field(
        default=False,
        description="Archive only what inference needs: no optimizer, scheduler or random state.",
    )
    bandwidth: float = Field(
        default=0.0, ge=0, description="Send at most this many mebibytes a second; 0 is no limit."
    )
    parallel: int = Field(
        default=4,
        ge=1,
        le=64,
        description="Parts of files that are sent at the same time; each takes 64 MiB of memory.",
    )
    verify: bool = Field(
        default=False, description="Read each checkpoint back after it was archived, and compare."
    )
    max_held: int = Field(
        default=5,
        ge=1,
        description="Checkpoints that a training holds for the archiver at most; the oldest goes.",
    )
    max_held_gb: float = Field(
        default=0.0,
        ge=0,
        description="Gibibytes that a training holds for the archiver at most; 0 is no limit.",
    )
    runs: list[str] = Field(
        default=[], description="Only runs with such an id or name; `*` fits any text."
    )
    projects: list[str] = Field(
        default=[], description="Only runs of such a project; `*` fits any text."
    )

    @property
    def archiver_options(self) -> ArchiverOptions:
        names = (
            *("save_total_limit", "keep_best", "monitor", "mode", "save_best_only"),
            *("every_steps", "every_hours", "frequency"),
        )
        keep = KeepOptions(**{name: getattr(self, name) for name in names})
        redaction = Redaction(redact_text, mask_names, mask_texts)
        runs = RunFilter(self.runs, self.projects)
        return ArchiverOptions(redaction, keep, self.verify, self.weights_only, runs)

    @property
    def hold_limits(self) -> HoldLimits:
        return HoldLimits(self.max_held, self.max_held_gb)


def find(configuration: StackConfiguration) -> Archive:
    """The section of ``configuration``.

    Raises:
        UsageError: it has no ``url``.
    """
    archive = configuration.archive
    if archive.url:
        return archive
    if configuration.document is None:
        remedy = f"name a file by --config or {CONFIG_VARIABLE}, or give --archive URL"
    else:
        remedy = f"set archive.url in {configuration.document.file}, or give --archive URL"
    raise UsageError(f"there is no archive of checkpoints; {remedy}")


def is_secret(key: Key) -> bool:
    """Whether ``key`` of a configuration file is an option of a store that may hold a secret."""
    return key[:2] == (SECTION, "options") and key[2:3] not in {(one,) for one in _HARMLESS_OPTIONS}


def redacted(archive: dict[str, Any]) -> dict[str, Any]:
    """``archive``, the section as JSON, for people: of an option that may be a secret no value."""
    options = {
        name: value if name in _HARMLESS_OPTIONS else REDACTED
        for name, value in archive["options"].items()
    }
    return {**archive, "options": options}
