"""Takes secrets out of the files of a checkpoint before they are archived.

``training_args.bin`` has the arguments of a training, with ``hub_token`` in clear. It is scrubbed
without unpickling it, or left out if it cannot be followed: no training needs it to resume. JSON
and other texts are scrubbed by the names beside values and by the form of keys. Everything else is
tensors and numbers (weights, ``optimizer.pt``, ``scheduler.pt``, ``rng_state*.pth``) or a
vocabulary, and is left as it is.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from lineside.store.archive.errors import SourceChanged
from lineside.store.archive.source_file import SourceFile
from lineside.subscribers.archiver.files.pickled import InvalidPickle
from lineside.subscribers.archiver.files.redaction import Redaction
from lineside.subscribers.archiver.files.scrub_pickle import scrub_pickle

ARGUMENTS = "training_args.bin"
_MOST_BYTES = 64 << 20  # a larger text is data
# A vocabulary has every word as a name, and an index every parameter.
_NO_SECRETS = re.compile(
    r"(.*tokenizer.*|.*vocab.*|special_tokens_map|added_tokens|chat_template|.*\.index)\.json"
)
_TEXTS = frozenset({".yaml", ".yml", ".toml", ".ini", ".cfg", ".env", ".md", ".log"})
_INDENT = re.compile(rb"[{\[]\n( +)")


@dataclass(frozen=True)
class Scrubbed:
    """The files to archive, and why others are ``left_out``, by their paths."""

    files: list[SourceFile]
    left_out: dict[str, str] = field(default_factory=dict)


def scrub(files: Sequence[SourceFile], redaction: Redaction) -> Scrubbed:
    """``files`` without secrets; one that holds none is the same as before.

    Raises:
        SourceChanged: a file changed or went since it was listed.
    """
    scrubbed = Scrubbed([])
    for file in files:
        name = PurePosixPath(file.path).name
        try:
            if name == ARGUMENTS:
                content = scrub_arguments(_read(file), redaction)
            elif file.size > _MOST_BYTES:
                content = None
            elif name.endswith(".json") and not _NO_SECRETS.fullmatch(name):
                content = scrub_json(_read(file), redaction)
            elif PurePosixPath(name).suffix in _TEXTS or name == ".env":
                content = _scrub_text(_read(file), redaction)
            else:
                content = None
        except InvalidPickle as error:
            scrubbed.left_out[file.path] = f"it may hold a secret, and {error}"
            continue
        scrubbed.files.append(file if content is None else _with_content(file, content))
    return scrubbed


def scrub_arguments(data: bytes, redaction: Redaction) -> bytes | None:
    """``data``, written by torch.save, without secrets; None if it holds none.

    Raises:
        InvalidPickle: it is no zip with one pickle, or the pickle cannot be followed.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as source:
            members = [(member, source.read(member)) for member in source.infolist()]
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        raise InvalidPickle(f"it is no zip of torch.save ({str(error)[:200]})") from None
    pickles = [member for member, _ in members if member.filename.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise InvalidPickle(f"it has {len(pickles)} pickles where torch.save writes one")
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as target:
        for member, content in members:
            if member is pickles[0]:
                scrubbed = scrub_pickle(content, redaction)
                if scrubbed is None:
                    return None
                content = scrubbed
            target.writestr(zipfile.ZipInfo(member.filename, member.date_time), content)
    return output.getvalue()


def scrub_json(data: bytes, redaction: Redaction) -> bytes | None:
    """``data`` without secrets, its numbers and layout as they were; None if it holds none."""
    try:
        before = json.loads(data)
        after = redaction.mask_texts(_redacted(before, redaction))
    except (ValueError, RecursionError):
        return _scrub_text(data, redaction)
    if after == before:
        return None
    indent = _INDENT.match(data)
    text = json.dumps(after, indent=len(indent[1]) if indent else None, ensure_ascii=data.isascii())
    return text.encode("utf-8", "surrogatepass") + (b"\n" if data.endswith(b"\n") else b"")


def _scrub_text(data: bytes, redaction: Redaction) -> bytes | None:
    before = data.decode("utf-8", "surrogateescape")
    after = redaction.text(before)
    return None if after == before else after.encode("utf-8", "surrogateescape")


def _redacted(value: Any, redaction: Redaction) -> Any:
    """A copy of ``value`` with every text redacted."""
    if isinstance(value, dict):
        return {redaction.text(name): _redacted(item, redaction) for name, item in value.items()}
    if isinstance(value, list):
        redacted = [_redacted(item, redaction) for item in value]
        return redaction.without_key_lines(value, redacted)
    return redaction.text(value) if isinstance(value, str) else value


def _read(file: SourceFile) -> bytes:
    try:
        with file.open() as opened:
            data = opened.read()
            changed_at = os.fstat(opened.fileno()).st_mtime_ns
    except FileNotFoundError:
        raise SourceChanged(file.path, "went") from None
    if len(data) != file.size or changed_at != file.mtime_ns:
        raise SourceChanged(file.path, "changed")
    return data


def _with_content(file: SourceFile, content: bytes) -> SourceFile:
    return replace(file, size=len(content), open=_Content(content), scrubbed=True)


@dataclass(frozen=True)
class _Content:
    content: bytes

    def __call__(self) -> BinaryIO:
        return io.BytesIO(self.content)
