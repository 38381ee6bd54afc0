"""Holds the house's vocabulary: private words and the standard term for each.

Reads every Python file that git knows, or those named on the command line. Reports identifiers,
docstrings and comments, and the prose of documents; string literals are data and pass. Exits with 1
if it reports anything.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

# No word of these stands in an identifier, a docstring, a comment or a document.
EVERYWHERE = {
    "anybody": "any process, any client",
    "errand": "scheduled command",
    "hear hears heard hearing": "receive, read",
    "nobody": "no process, no subscriber",
    "rendezvous": "evaluation wait",
    "said": "logged, published, reported",
    "saying says say": "log, publish, report, state",
    "somebody someone": "a process, the client, another process",
    "steersman": "demo controller",
    "tell tells told telling": "publish, report, send",
    "whoever": "the client, the process that, any",
}
# Nor these in an identifier: in prose they may be plain English.
IDENTIFIERS = {
    "bury buried": "mark_deleted",
    "charges": "stream_registry",
    "desk desks": "command_sender",
    "door": "store_access",
    "going": "is_running",
    "keeper": "disk_worker",
    "ledger": "run_cache",
    "mailbox": "command_channel",
    "nap naps": "delay",
    "pulse": "liveness",
    "settle settled": "flush_gaps, is_complete",
    "sketch": "downsample",
    "station stations": "marker",
    "talk talks": "sync round",
    "tend tended tends": "maintain",
    "tidy": "sanitize",
    "vitals": "status",
    "witness witnesses": "hook_log, reader",
    "yard": "spool directory",
}
PHRASES = {
    "neither so nor so": "",
    "of its own accord": "by itself",
    "at its cause": "at the source",
}
# Names that are part of an interface of other packages, or of ours, spelled as there.
ALLOWED = frozenset({"heard_at", "settled_at", "sketches", "told_at"})
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_WORD = re.compile(r"[A-Za-z]+")


def _table(words: dict[str, str]) -> dict[str, str]:
    return {word: term for line, term in words.items() for word in line.split()}


_PROSE = _table(EVERYWHERE)
_NAMES = _PROSE | _table(IDENTIFIERS)


def in_prose(text: str) -> Iterator[tuple[str, str]]:
    """Each private word in ``text`` with its standard term; ``code`` is left out."""
    plain = re.sub(r"``[^`]*``|`[^`]*`", " ", text)
    for word in _WORD.findall(plain):
        if word.lower() in _PROSE:
            yield word, _PROSE[word.lower()]
    lowered = " ".join(plain.lower().split())
    yield from ((phrase, term) for phrase, term in PHRASES.items() if phrase in lowered)


def in_name(name: str) -> Iterator[tuple[str, str]]:
    """Each private word that the identifier ``name`` is made of, with its standard term."""
    if name in ALLOWED:
        return
    for part in _PARTS.findall(name):
        if part.lower() in _NAMES:
            yield part, _NAMES[part.lower()]


def in_python(source: str) -> Iterator[tuple[int, str, str, str]]:
    """(line, where, word, term) for each private word in a Python file."""
    previous = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        line = token.start[0]
        if token.type == tokenize.NAME:
            yield from ((line, token.string, *found) for found in in_name(token.string))
        elif token.type == tokenize.COMMENT and not token.string.startswith("# noqa"):
            yield from ((line, "a comment", *found) for found in in_prose(token.string))
        elif token.type == tokenize.STRING and previous in _BEFORE_DOCSTRING:
            yield from ((line, "a docstring", *found) for found in in_prose(token.string))
        if token.type not in (tokenize.NL, tokenize.COMMENT):
            previous = token.type


_BEFORE_DOCSTRING = (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING)


def main(arguments: list[str]) -> int:
    """Report every private word; the exit code."""
    patterns = arguments or ["*.py", "*.md"]
    listed = subprocess.run(
        ["git", "ls-files", *patterns], capture_output=True, text=True, check=True
    ).stdout.split()
    count = 0
    for path in (Path(name) for name in listed if name != "LICENSE"):
        if not path.is_file() or path == Path(__file__).relative_to(Path.cwd()):
            continue
        text = path.read_text()
        if path.suffix == ".py":
            found = list(in_python(text))
        else:
            found = [
                (number, "prose", *word)
                for number, line in enumerate(text.splitlines(), 1)
                for word in in_prose(line)
            ]
        for line, where, word, term in found:
            print(f"{path}:{line}: {word!r} in {where}: use {term}")
        count += len(found)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
