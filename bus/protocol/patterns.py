"""Patterns of streams, ``run[/producer[/attempt]]`` with ``*`` for a part, and of names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import translate
from functools import lru_cache
from itertools import product

from lineside.bus.protocol.events import Stream


def matches(text: str, pattern: str) -> bool:
    """Whether ``text`` matches ``pattern``, in which ``*`` stands for any characters."""
    return _compiled(pattern).match(text) is not None


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(re.sub(r"[?[]", r"[\g<0>]", pattern)))  # these mean something there


class Patterns:
    """A set of stream patterns; an empty set matches every stream. Caches each decision.

    None, the stream of a damaged journal entry, always matches.

    Raises:
        ValueError: a pattern that is not one to three non-empty parts.
    """

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        self._parts = set()
        for text in patterns:
            parts = tuple(text.split("/"))
            if len(parts) > 3 or not all(parts):
                raise ValueError(f"pattern {text[:200]!r}: expected run[/producer[/attempt]]")
            self._parts.add(parts)
        self._cache: dict[Stream, bool] = {}

    @property
    def all(self) -> bool:
        """Whether every stream matches."""
        return not self._parts

    def __contains__(self, stream: Stream | None) -> bool:
        if stream is None or not self._parts:
            return True
        is_wanted = self._cache.get(stream)
        if is_wanted is None:
            # However many patterns there are, only these 14 can match.
            is_wanted = self._cache[stream] = any(
                parts in self._parts
                for count in (1, 2, 3)
                for parts in product(*((part, "*") for part in stream[:count]))
            )
        return is_wanted
