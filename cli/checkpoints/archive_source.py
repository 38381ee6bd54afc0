"""Opens the store and the archive that a command on checkpoints reads, and finds the run there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.bus.checkpoints.hold import archive_of
from lineside.bus.errors import MissingExtra, RunNotFound, StoreError, UsageError
from lineside.bus.settings import Settings
from lineside.cli.configuration.option import CONFIG_VARIABLE, load_configuration
from lineside.cli.run_lookup import open_history
from lineside.store.archive.location import ArchiveLocation, open_archive

if TYPE_CHECKING:
    from lineside.cli.configuration.archive import Archive as ArchiveSection
    from lineside.store.archive.archive import Archive
    from lineside.store.history.history import History


@dataclass(frozen=True)
class NamedArchive:
    """The archive that ``--archive`` names, or else the configuration file.

    Without either it is the folder to which the archiver of this home writes.
    """

    url: str | None
    config: Path | None

    def open(self) -> Archive | None:
        """The archive; None if there is none.

        Raises:
            UsageError: no archive can be there, or the configuration has faults.
            MissingExtra: the packages of the extra ``archive`` are not installed.
        """
        if self._section is None:
            return _open_url(self.url or "")
        if not self._section.url:
            url = self._url_of_home
            return _open_url(url) if url and "://" not in url.removeprefix("file://") else None
        location = ArchiveLocation(self._section.url, self._section.options)
        return open_archive(location, parallel=self._section.parallel)

    def require(self) -> Archive:
        """The archive; raises as ``open`` does, and a UsageError if there is none.

        A folder has to be there: one on a disk that is not mounted has lost nothing.
        """
        archive = self.open()
        if archive is None:
            url = self._url_of_home  # a bucket, whose options are in the configuration alone
            what = f"the archive {url} needs its options" if url else "there is no archive"
            raise UsageError(
                f"{what}: give --archive URL, or set archive.url in a configuration file and name "
                f"that by --config or {CONFIG_VARIABLE}"
            )
        folder = archive.url.removeprefix("file://")
        if "://" not in folder and not Path(folder).expanduser().is_dir():
            raise UsageError(
                f"the folder {folder} of the archive is not there: correct the path, or mount it"
            )
        return archive

    @property
    def monitor(self) -> Sequence[str]:
        """The metrics that decide which checkpoint is best; empty without a configuration."""
        return self._section.monitor if self._section else ()

    @property
    def mode(self) -> str:
        """Whether lower or higher is better: ``min``, ``max`` or ``auto``."""
        return self._section.mode if self._section else "auto"

    @property
    def words(self) -> list[str]:
        """The options that name it in another command."""
        words = ["--archive", self.url] if self.url else []
        return [*words, "--config", str(self.config)] if self.config else words

    @property
    def _url_of_home(self) -> str:
        return archive_of(Settings.from_env().home)

    @cached_property
    def _section(self) -> ArchiveSection | None:
        """The configuration of the archive; None with a URL alone, which needs no package."""
        if self.url is not None and self.config is None:
            return None
        return load_configuration(self.config).with_archive(self.url or "").archive


def _open_url(url: str) -> Archive:
    has_scheme = ":" in url.partition("/")[0]  # also `s3:/bucket`, which is no folder
    return open_archive(ArchiveLocation(url if has_scheme else str(Path(url).absolute())))


@dataclass(frozen=True)
class RunSource:
    """The id of a run, and where to read of it; at least one of the two has it."""

    run: str
    history: History | None
    archive: Archive | None


def find_run(text: str, open_archive: Callable[[], Archive | None]) -> RunSource:
    """The run that ``text`` names in the store; or in the archive, which is opened only then.

    Raises:
        RunNotFound, StoreError, MissingExtra: the store has none, and there is no archive.
        UsageError: several runs match, or the archive has none either.
    """
    try:
        history = open_history()
        return RunSource(history.find(text).id, history, None)
    except (RunNotFound, StoreError, MissingExtra) as error:
        archive = open_archive()
        if archive is None:
            raise
        runs = archive.runs()
        matches = [text] if text in runs else [run for run in runs if run.startswith(text)]
        if len(matches) == 1:
            return RunSource(matches[0], None, archive)
        if matches:
            raise UsageError(
                f"{text!r} matches several runs in {archive.url} ({', '.join(matches[:4])}): give "
                "more of the id"
            ) from error
        others = f"has {', '.join(runs[-4:])}" if runs else "has no run"
        raise UsageError(f"{error}; the archive {archive.url} {others}") from error
