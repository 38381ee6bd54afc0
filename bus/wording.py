"""Words of messages: numbers with nouns and verbs, and the name that a wrong one resembles."""

from __future__ import annotations

import signal
from collections.abc import Iterable

_PLURAL_VERBS = {"is": "are", "was": "were", "has": "have", "does": "do", "its": "their"}


def plural(count: int, noun: str) -> str:
    """``1 event``, ``12,345 events``, ``2 journal entries``."""
    if count == 1:
        return f"1 {noun}"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{count:,} {noun[:-1]}ies"
    return f"{count:,} {noun}{'es' if noun.endswith(('s', 'x', 'ch', 'sh')) else 's'}"


def agree(count: float, word: str) -> str:
    """``word``, a verb or ``its``, as it stands after ``count`` things: ``is`` or ``are``."""
    if count == 1:
        return word
    return _PLURAL_VERBS.get(word) or word.removesuffix("s")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean X?`` with the ``known`` name that ``name`` resembles; else nothing."""
    import difflib  # few processes need it

    similar = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {similar[0]}?" if similar else ""


def describe_exit(code: int) -> str:
    """How a process ended, from its ``returncode``: ``exit code 1``, ``SIGKILL``."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
