"""Objects in S3, Google Cloud Storage or Azure, by the package obstore."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from types import ModuleType
from typing import Any, TypeVar

from lineside.bus.errors import MissingExtra
from lineside.store.archive.errors import ArchiveError, ArchiveLocationError, ArchiveUnavailable
from lineside.store.archive.objects.objects import CHUNK_BYTES, ObjectExists, ObjectMissing
from lineside.store.archive.objects.pace import Pace
from lineside.store.archive.objects.paced_proxy import PacedProxy
from lineside.store.archive.objects.remote_errors import Place, status_and_code, translate

_USUAL_OPTIONS = {
    "s3": "region, endpoint, access_key_id, secret_access_key or session_token",
    "gs": "service_account",
    "az": "account_name or account_key",
}
_CLIENT_OPTIONS = frozenset(
    {
        "allow_http",
        "allow_invalid_certificates",
        "connect_timeout",
        "proxy_ca_certificate",
        "proxy_excludes",
        "proxy_url",
        "root_certificate",
        "user_agent",
    }
)
_RETRY = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=30),
    "backoff": {
        "init_backoff": timedelta(seconds=0.2),
        "max_backoff": timedelta(seconds=2),
        "base": 2,
    },
}
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_FIRST_PATIENCE, _MOST_PATIENCE = 120.0, 7200.0
_NOT_SUPPORTED = 501

T = TypeVar("T")


class Remote:
    """An object store of the cloud: ``scheme`` is ``s3``, ``gs`` or ``az``.

    Raises:
        ArchiveLocationError: an option is not one of the store's.
        MissingExtra: the extra ``archive`` is not installed.
    """

    def __init__(
        self, url: str, bucket: str, prefix: str, options: Mapping[str, str], pace: Pace
    ) -> None:
        try:
            import obstore.exceptions
            import obstore.store
        except ImportError:
            raise MissingExtra(f"the archive {url}", "obstore", "archive") from None
        self._obstore: ModuleType = obstore
        self._scheme = url.partition(":")[0].lower()
        self._kind = {
            "s3": obstore.store.S3Store,
            "gs": obstore.store.GCSStore,
            "az": obstore.store.AzureStore,
        }[self._scheme]
        self._bucket = bucket
        self._prefix = prefix
        self._pace = pace
        self._config = {n: v for n, v in options.items() if n not in _CLIENT_OPTIONS}
        self._client = {n: v for n, v in options.items() if n in _CLIENT_OPTIONS}
        endpoint = next((v for n, v in options.items() if n.endswith("endpoint")), "")
        # obstore reads these itself.
        if not endpoint and url.startswith("s3:"):
            endpoint = next(filter(None, map(os.environ.get, _ENDPOINT_VARIABLES)), "")
        if endpoint.startswith("http://"):
            self._client.setdefault("allow_http", "true")
        self._place = Place(url, bucket, _without_credentials(endpoint))
        self._patience = _Patience(pace)
        self._store = self._make_store({})

    def expect(self) -> None:
        """Do nothing: a bucket is never made."""

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[RemoteObjects]:
        if not self._pace.bytes_per_second:
            yield RemoteObjects(self._obstore, self._store, self._place, self._patience, None)
            return
        proxy = PacedProxy(self._pace, self._client.get("proxy_url", ""))
        async with proxy.serve() as url:
            # The proxy takes each connection to one server, so none is used again.
            store = self._make_store({"proxy_url": url, "pool_max_idle_per_host": "0"})
            yield RemoteObjects(self._obstore, store, self._place, self._patience, proxy)

    def _make_store(self, client: Mapping[str, str]) -> Any:
        options: dict[str, Any] = {
            "connect_timeout": "10s",
            **self._client,
            # Each request has its own, see _Patience.
            "timeout": f"{_MOST_PATIENCE:.0f}s",
            **client,
        }
        if "allow_http" in options:
            options["allow_http"] = options["allow_http"].lower() in ("true", "1", "yes", "on")
        try:
            return self._kind(
                self._bucket,
                prefix=self._prefix or None,
                config=self._config,
                client_options=options,
                retry_config=_RETRY,
            )
        except self._obstore.exceptions.UnknownConfigurationKeyError as error:
            found = [name for name in self._config if f"'{name}'" in str(error)]
            names = ", ".join(found or sorted(self._config))
            raise ArchiveLocationError(
                f"the archive {self._place.url} has an option that its store does not know: "
                f"{names}; expected one such as {_USUAL_OPTIONS[self._scheme]}"
            ) from None
        except (self._obstore.exceptions.BaseError, TypeError, ValueError) as error:
            raise ArchiveLocationError(
                f"the archive {self._place.url} cannot be used as its options are "
                f"({type(error).__name__}); found {', '.join(sorted(options | self._config))}"
            ) from None


def _without_credentials(endpoint: str) -> str:
    """Scheme, host and port of ``endpoint``: the rest may hold a password or a signature."""
    scheme, found, rest = endpoint.partition("://")
    host = re.split("[/?#]", rest if found else scheme, maxsplit=1)[0].rpartition("@")[2]
    return f"{scheme}{found}{host}" if found else host


class _Patience:
    """How long a request may take: twice as long after one that took longer, up to two hours.

    A dead connection is given up in minutes, and a slow one is not given up for ever.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._seconds = _FIRST_PATIENCE
        self._lock = threading.Lock()

    async def wait(self, answer: Awaitable[T], place: Place) -> T:
        given = self._seconds
        # Those of other requests share the pace.
        paced = 16 * (64 << 20) / self._pace.bytes_per_second if self._pace.bytes_per_second else 0
        try:
            return await asyncio.wait_for(answer, given + paced)
        except (asyncio.TimeoutError, TimeoutError):
            with self._lock:
                self._seconds = min(max(self._seconds, given * 2), _MOST_PATIENCE)
            raise ArchiveUnavailable(f"{place} did not answer within {given + paced:g} s") from None


class RemoteObjects:
    """See ``Objects``."""

    def __init__(
        self,
        module: ModuleType,
        store: Any,
        place: Place,
        patience: _Patience,
        proxy: PacedProxy | None,
    ) -> None:
        self._obstore = module
        self._store = store
        self._place = place
        self._patience = patience
        self._proxy = proxy
        self._sent = 0
        self._can_refuse = True  # to write what exists

    @property
    def bytes_sent(self) -> int:
        return self._sent if self._proxy is None else self._proxy.bytes_sent

    async def put(self, key: str, data: bytes, *, replace: bool = False) -> None:
        with self._translated():
            if self._can_refuse and not replace:
                try:
                    await self._put(key, data, "create")
                except self._obstore.exceptions.AlreadyExistsError:
                    raise ObjectExists(key) from None
                except (self._obstore.exceptions.BaseError, NotImplementedError) as error:
                    is_known = not isinstance(error, NotImplementedError)
                    if is_known and status_and_code(str(error))[0] != _NOT_SUPPORTED:
                        raise
                    # A store that cannot refuse: what is written is the same bytes by its name.
                    self._can_refuse = False
                    await self._put(key, data, "overwrite")
            else:
                await self._put(key, data, "overwrite")
        self._sent += len(data)

    async def _put(self, key: str, data: bytes, mode: str) -> None:
        await self._patience.wait(
            self._obstore.put_async(self._store, key, data, mode=mode, use_multipart=False),
            self._place,
        )

    async def get(self, key: str) -> AsyncGenerator[bytes, None]:
        with self._translated(missing=key):
            found = await self._patience.wait(
                self._obstore.get_async(self._store, key), self._place
            )
            chunks = found.stream(min_chunk_size=CHUNK_BYTES).__aiter__()
        while True:
            with self._translated():
                try:
                    chunk = await self._patience.wait(chunks.__anext__(), self._place)
                except StopAsyncIteration:
                    return
            yield bytes(chunk)

    async def sizes(self, prefix: str) -> dict[str, int]:
        with self._translated():
            stream = self._obstore.list(self._store, prefix, chunk_size=1000)
            listed = await self._patience.wait(stream.collect_async(), self._place)
        return {entry["path"]: entry["size"] for entry in listed}

    async def folders(self, prefix: str) -> list[str]:
        with self._translated():
            listed = await self._patience.wait(
                self._obstore.list_with_delimiter_async(self._store, prefix), self._place
            )
        return [path.rstrip("/").rpartition("/")[2] for path in listed["common_prefixes"]]

    async def delete(self, key: str) -> None:
        with self._translated():
            try:
                await self._patience.wait(self._obstore.delete_async(self._store, key), self._place)
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error) or "Container" in str(error):
                    raise

    async def remove_leftovers(self, prefix: str) -> None:
        """Do nothing: an object is one request, so that a killed one leaves nothing."""

    @contextmanager
    def _translated(self, missing: str = "") -> Iterator[None]:
        try:
            yield
        except (ArchiveError, ObjectExists, ObjectMissing, StopAsyncIteration):
            raise
        except FileNotFoundError as error:
            code = status_and_code(str(error))[1]
            if missing and code not in ("NoSuchBucket", "ContainerNotFound"):
                raise ObjectMissing(missing) from None
            raise translate(error, self._place) from None
        except (self._obstore.exceptions.BaseError, OSError, ValueError) as error:
            # Not "from error": its text may hold credentials, and a traceback would show it.
            raise translate(error, self._place) from None
