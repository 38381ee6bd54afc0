"""Which streams a reader wants: ``run[/producer[/attempt]]``, ``*`` for any one part."""

from __future__ import annotations

from collections.abc import Sequence

from lineside.bus.events import Stream


class Patterns:
    """A set of patterns; none at all means every stream, and None, a stream that cannot be known,
    is always wanted. Remembers what it decided.

    Raises:
        ValueError: a pattern that is not one to three non-empty parts.
    """

    def __init__(self, texts: Sequence[str] = ()) -> None:
        self._parts = []
        for text in texts:
            parts = text.split("/")
            if len(parts) > 3 or not all(parts):
                raise ValueError(f"pattern {text[:200]!r}: expected run[/producer[/attempt]]")
            self._parts.append(parts)
        self._decided: dict[Stream, bool] = {}

    @property
    def all(self) -> bool:
        """Whether every stream is wanted."""
        return not self._parts

    def __contains__(self, stream: Stream | None) -> bool:
        if stream is None or not self._parts:
            return True
        decided = self._decided.get(stream)
        if decided is None:
            decided = self._decided[stream] = any(
                all(part in ("*", have) for part, have in zip(parts, stream, strict=False))
                for parts in self._parts
            )
        return decided
