"""What an archive needs of the place where its objects are."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

CHUNK_BYTES = 8 << 20


class ObjectMissing(Exception):
    """There is no object with this key."""


class ObjectExists(Exception):
    """An object with this key exists, and the store refused to write it anew."""


class Objects(Protocol):
    """Objects by key, during one use of the archive, on one event loop.

    ``bytes_sent`` counts what has left for the store so far, as finely as that is known. Every
    method raises ArchiveUnavailable or ArchiveDenied where the store cannot be used.
    """

    @property
    def bytes_sent(self) -> int: ...

    async def put(self, key: str, data: bytes, *, replace: bool = False) -> None:
        """Write an object, whole or not at all.

        Raises:
            ObjectExists: without ``replace``, it exists and the store can refuse that.
        """

    def get(self, key: str) -> AsyncGenerator[bytes, None]:
        """The bytes of an object, in chunks.

        Raises:
            ObjectMissing: it does not exist.
        """

    async def sizes(self, prefix: str) -> dict[str, int]:
        """The keys that begin with ``prefix``, which ends with a slash, each with its bytes."""

    async def folders(self, prefix: str) -> list[str]:
        """The names directly below ``prefix`` that have keys below them."""

    async def delete(self, key: str) -> None:
        """Remove an object, if it is there."""

    async def remove_leftovers(self, prefix: str) -> None:
        """Remove what killed writes left below ``prefix``. No write may be under way there."""


class ObjectStore(Protocol):
    """Makes the connection to where the objects are."""

    def expect(self) -> None:
        """Have it not made anew: it has been used before."""

    def connect(self) -> AbstractAsyncContextManager[Objects]: ...
