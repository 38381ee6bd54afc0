"""A sink: sends one batch to one kind of receiver, and reports how that went."""

from __future__ import annotations

from typing import Protocol

from lineside.subscribers.uploader.batch import Batch


class Unavailable(Exception):
    """The receiver did not take the batch now; ``str`` is the reason, without any secret.

    ``retry_after`` is the number of seconds that it asks to wait.
    """

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Refused(Exception):
    """The receiver will never take this batch; ``str`` is its answer, without any secret."""


class TooLarge(Refused):
    """The batch has too many points for one request."""


class Sink(Protocol):
    """Sends batches. Any thread may use it."""

    def send(self, batch: Batch) -> None:
        """Return once the receiver has confirmed all points of ``batch``.

        Raises:
            Unavailable: it has not, and may later.
            Refused: it never will.
        """
