"""Patterns of streams, ``run[/producer[/attempt]]`` with ``*`` for a part, and of names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import translate
from functools import lru_cache
from hashlib import sha256
from operator import itemgetter
from typing import Any

from lineside.bus.protocol.events import PART, Stream

_PATTERN = re.compile(rf"(?:\*|{PART})(?:/(?:\*|{PART})){{0,2}}")


def matches(text: str, pattern: str) -> bool:
    """Whether ``text`` matches ``pattern``, in which ``*`` stands for any characters."""
    return _compiled(pattern).match(text) is not None


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(re.sub(r"[?[]", r"[\g<0>]", pattern)))  # these mean something there


class Patterns:
    """A set of stream patterns; an empty set matches every stream.

    None, the stream of a damaged journal entry, always matches.

    Raises:
        ValueError: a pattern that is not one to three parts, each ``*`` or a part of a stream.
    """

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        # By the places of the parts that are not ``*``, of which there are few combinations: what
        # stands there, one part as text and several as a tuple.
        by_places: dict[tuple[int, ...], set[Any]] = {}
        for text in patterns:
            if _PATTERN.fullmatch(text) is None:
                raise ValueError(
                    f"pattern {text[:200]!r}: expected run[/producer[/attempt]], each * or 1 to "
                    "128 of A-Z a-z 0-9 . _ -; a * inside a part would match no stream"
                )
            parts = text.split("/")
            places = tuple(place for place, part in enumerate(parts) if part != "*")
            wanted = by_places.setdefault(places, set())
            if places:
                wanted.add(itemgetter(*places)(parts))
        self.all = not patterns or () in by_places
        """Whether every stream matches."""
        texts = "\n".join(sorted(set(patterns)))
        self.digest = "" if self.all else sha256(texts.encode()).hexdigest()[:16]
        """The same for the same patterns; empty if every stream matches."""
        self._wanted = [
            (places, itemgetter(*places), wanted)
            for places, wanted in by_places.items()
            if not self.all
        ]

    def __contains__(self, stream: Stream | None) -> bool:
        if stream is None or self.all:
            return True
        # A loop: any() over a generator takes twice as long.
        for _, pick, wanted in self._wanted:  # noqa: SIM110
            if pick(stream) in wanted:
                return True
        return False

    def runs(self) -> set[str] | None:
        """The runs whose streams can match; None if those of every run can."""
        runs: set[str] = set()
        for places, _, wanted in self._wanted:
            if places[0] != 0:
                return None
            runs.update(wanted if len(places) == 1 else (parts[0] for parts in wanted))
        return None if self.all else runs
