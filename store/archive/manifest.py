"""The manifest of a checkpoint: its files, their parts, and what is known of the checkpoint."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from lineside.store.archive.keys import is_name

FORMAT = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")


class InvalidManifest(ValueError):
    """Bytes that are no manifest; the message names the place and what was expected."""


@dataclass(frozen=True)
class Part:
    """A piece of a file: its SHA-256 in hexadecimal digits, and its bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class ManifestFile:
    """A file by its relative POSIX ``path``; ``scrubbed`` if secrets in it were replaced."""

    path: str
    size: int
    parts: tuple[Part, ...]
    scrubbed: bool = False


@dataclass(frozen=True)
class CheckpointFacts:
    """What is known of a checkpoint apart from its files. Times are in seconds since the epoch.

    ``checkpoint`` is the path where training saved it, ``metrics`` are those at its step, and
    ``versions`` are of the packages that training used.
    """

    run: str
    attempt: str
    step: int
    checkpoint: str
    saved_at: float
    name: str | None = None
    project: str | None = None
    epoch: float | None = None
    world_size: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """All of an archived checkpoint. It is there whole if and only if its manifest is."""

    facts: CheckpointFacts
    files: tuple[ManifestFile, ...]
    archived_at: float

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def parts(self) -> dict[Part, list[str]]:
        """The distinct parts in their order, each with the files that have it."""
        found: dict[Part, list[str]] = {}
        for file in self.files:
            for part in file.parts:
                named = found.setdefault(part, [])
                if file.path not in named:
                    named.append(file.path)
        return found

    def to_json(self) -> bytes:
        files = []
        for file in self.files:
            entry: dict[str, Any] = asdict(file)
            if not file.scrubbed:
                del entry["scrubbed"]
            files.append(entry)
        body = {
            "format": FORMAT,
            **asdict(self.facts),
            "metrics": {
                name: value for name, value in self.facts.metrics.items() if math.isfinite(value)
            },
            "archived_at": self.archived_at,
            "bytes": self.size,
            "files": files,
        }
        return json.dumps(body, indent=1, allow_nan=False).encode() + b"\n"

    @classmethod
    def from_json(cls, body: bytes) -> Manifest:
        """The manifest in ``body``.

        Raises:
            InvalidManifest: the bytes are no manifest that this version reads, or a path in it
                leads out of the checkpoint.
        """
        try:
            values = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise InvalidManifest(f"it is no JSON ({str(error)[:200]})") from None
        if not isinstance(values, dict):
            raise InvalidManifest("it is no JSON object")
        if values.get("format") != FORMAT:
            raise InvalidManifest(
                f"it has format {values.get('format')!r:.50}, and this Lineside reads {FORMAT}: "
                "upgrade Lineside if the archive is newer"
            )
        manifest = cls(_facts(values), _files(values), _number(values, "archived_at"))
        if values.get("bytes") != manifest.size:
            raise InvalidManifest(
                f"bytes is {values.get('bytes')!r:.50}, and its files have {manifest.size}"
            )
        return manifest


def _facts(values: Mapping[str, Any]) -> CheckpointFacts:
    for name in ("run", "attempt"):
        if not is_name(_text(values, name)):
            raise InvalidManifest(f"{name} {values[name]!r:.200} is no valid name")
    metrics, versions = values.get("metrics", {}), values.get("versions", {})
    if not _is_map_of(metrics, (int, float)):
        raise InvalidManifest("metrics is no object of numbers")
    if not _is_map_of(versions, (str,)):
        raise InvalidManifest("versions is no object of strings")
    return CheckpointFacts(
        run=values["run"],
        attempt=values["attempt"],
        step=_whole(values, "step"),
        checkpoint=_text(values, "checkpoint"),
        saved_at=_number(values, "saved_at"),
        name=None if values.get("name") is None else _text(values, "name"),
        project=None if values.get("project") is None else _text(values, "project"),
        epoch=None if values.get("epoch") is None else _number(values, "epoch"),
        world_size=None if values.get("world_size") is None else _whole(values, "world_size"),
        metrics=metrics,
        versions=versions,
    )


def _files(values: Mapping[str, Any]) -> tuple[ManifestFile, ...]:
    listed = values.get("files")
    if not isinstance(listed, list):
        raise InvalidManifest("files is no list")
    files = tuple(_file(entry) for entry in listed)
    check_paths(file.path for file in files)
    return files


def check_paths(paths: Iterator[str]) -> None:
    """Check that every path is relative, stays in its folder, and is neither twice nor a folder.

    Raises:
        InvalidManifest: one does not.
    """
    known: set[str] = set()
    folders: set[str] = set()
    for path in paths:
        pure = PurePosixPath(path)
        if str(pure) != path or pure.is_absolute() or {"..", "."} & set(pure.parts) or "\0" in path:
            raise InvalidManifest(f"path {path[:200]!r} is no plain path below the checkpoint")
        if path in known:
            raise InvalidManifest(f"path {path[:200]!r} is there twice")
        known.add(path)
        folders.update(str(parent) for parent in pure.parents)
    if both := known & folders:
        raise InvalidManifest(f"path {min(both)[:200]!r} is a file and a folder")


def _file(entry: Any) -> ManifestFile:
    if not isinstance(entry, dict) or not isinstance(entry.get("parts"), list):
        raise InvalidManifest("an entry of files is no object with parts")
    path = _text(entry, "path")
    parts = tuple(_part(part, path) for part in entry["parts"])
    file = ManifestFile(path, _whole(entry, "size"), parts, entry.get("scrubbed") is True)
    if sum(part.size for part in parts) != file.size:
        raise InvalidManifest(f"{path[:200]!r} has {file.size} bytes, and its parts have others")
    return file


def _part(entry: Any, path: str) -> Part:
    if not isinstance(entry, dict) or not _SHA256.fullmatch(_text(entry, "sha256")):
        raise InvalidManifest(f"a part of {path[:200]!r} has no SHA-256 in hexadecimal digits")
    return Part(entry["sha256"], _whole(entry, "size"))


def _is_map_of(value: Any, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, dict) and all(isinstance(item, kinds) for item in value.values())


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str):
        raise InvalidManifest(f"{name} is {value!r:.50}, expected a string")
    return value


def _whole(values: Mapping[str, Any], name: str) -> int:
    value = values.get(name)
    if type(value) is not int or value < 0:
        raise InvalidManifest(f"{name} is {value!r:.50}, expected a whole number from 0")
    return value


def _number(values: Mapping[str, Any], name: str) -> float:
    value = values.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise InvalidManifest(f"{name} is {value!r:.50}, expected a number")
    return float(value)
