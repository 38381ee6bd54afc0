"""Reads and writes the key-value store of torch.distributed with a timeout.

A call of that store waits for its server without limit, and the server is often the launcher: if it
is frozen, every rank would freeze. So a thread makes the calls in order, and the caller waits a
limited time for the result.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from queue import SimpleQueue
from typing import Any

from lineside.emitter.spool.script_errors import is_script_error
from lineside.emitter.training.error_facts import one_line

PEER_TIMEOUT_SECONDS = 1_800.0
"""Default time for which torch.distributed waits for a peer."""
_REPLY_SECONDS = 10.0
_JOIN_SECONDS = 2.0
_MIN_DELAY, _MAX_DELAY = 0.0002, 0.1

_RequestQueue = SimpleQueue["tuple[Callable[[Any], Any], Future[Any]] | None"]


def distributed() -> Any:
    """torch.distributed if this process is in a group of it; it is never imported here."""
    module = sys.modules.get("torch.distributed")
    with contextlib.suppress(Exception):
        if module is not None and module.is_available() and module.is_initialized():
            return module
    return None


def job_store() -> Any:
    """The key-value store of the job this process belongs to; None without torch.distributed."""
    module = distributed()
    return None if module is None else module.distributed_c10d._get_default_store()


class ConsensusError(Exception):
    """The ranks cannot agree any more, for the reason given."""


class JobStore:
    """The keys that begin with ``prefix``. Values are JSON, but not null. For one thread.

    Raises:
        ConsensusError: there is no store; in every method: the store failed, or did not answer for
            ``timeout`` seconds. No further call waits until it answers, and the store still makes
            every call once it works again.
    """

    def __init__(self, prefix: str, timeout: float = _REPLY_SECONDS) -> None:
        store = job_store()
        if store is None:
            raise ConsensusError("torch.distributed is not in use, so its ranks cannot be asked")
        self._prefix = prefix
        self._timeout = timeout
        self._overdue: Future[Any] | None = None
        self._requests: _RequestQueue = SimpleQueue()
        self._finalizer = weakref.finalize(self, self._requests.put, None)
        thread_args = (store, self._requests)
        self._thread = threading.Thread(
            target=_serve, args=thread_args, name="lineside", daemon=True
        )
        self._thread.start()
        _threads[self._thread] = self._requests

    def close(self) -> None:
        """Return once all calls are made, or after two seconds. Raises nothing."""
        self._finalizer()
        if not self._is_overdue():
            self._thread.join(_JOIN_SECONDS)

    @contextlib.contextmanager
    def timeout(self, seconds: float) -> Iterator[None]:
        """Wait this long for an answer in the block."""
        before, self._timeout = self._timeout, seconds
        try:
            yield
        finally:
            self._timeout = before

    def set(self, name: str, value: object) -> None:
        key, text = self._key(name), json.dumps(value)
        self._call(lambda store: store.set(key, text))

    def set_nowait(self, name: str, value: object) -> None:
        """Set it and do not wait for that. Raises nothing."""
        key, text = self._key(name), json.dumps(value)
        self._submit(lambda store: store.set(key, text))

    def find(self, name: str) -> Any:
        """Its value; None if it is not set."""
        key = self._key(name)
        text = self._call(lambda store: store.get(key) if store.check([key]) else None)
        return None if text is None else json.loads(text)

    def set_default(self, name: str, value: object) -> Any:
        """Set it if it is not set; the value it has now."""
        key, text = self._key(name), json.dumps(value)
        return json.loads(self._call(lambda store: store.compare_set(key, "", text)))

    def increment(self, name: str, n: int) -> int:
        key = self._key(name)
        return int(self._call(lambda store: store.add(key, n)))

    def delete(self, name: str) -> None:
        """Delete it if the store supports that. Raises nothing."""
        key = self._key(name)
        self._submit(lambda store: store.delete_key(key))

    def wait(self, name: str, seconds: float, on_poll: Callable[[], object] = lambda: None) -> Any:
        """Its value; None if it is not set in time. ``on_poll`` is called now and then."""
        deadline, delay = time.monotonic() + seconds, _MIN_DELAY
        while (value := self.find(name)) is None:
            if time.monotonic() > deadline:
                return None
            time.sleep(delay)
            delay = min(delay * 1.5, _MAX_DELAY)
            on_poll()
        return value

    def _is_overdue(self) -> bool:
        return self._overdue is not None and not self._overdue.done()

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    def _submit(self, func: Callable[[Any], Any]) -> Future[Any]:
        answer: Future[Any] = Future()
        self._requests.put((func, answer))
        return answer

    def _call(self, func: Callable[[Any], Any]) -> Any:
        timeout = 0 if self._is_overdue() else self._timeout
        answer = self._submit(func)
        try:
            return answer.result(timeout)
        except Exception as error:  # each kind of store has its own errors
            if is_script_error(error):
                raise
            if isinstance(error, FutureTimeout) and not answer.done():
                self._overdue = answer
                why = f"the job's store did not answer for {self._timeout:g} s"
                raise ConsensusError(why) from None
            raise ConsensusError(f"the job's store failed: {one_line(error)}") from error


def _serve(store: Any, requests: _RequestQueue) -> None:
    """Make the requested calls, one after another, until the request None."""
    while (request := requests.get()) is not None:
        func, answer = request
        try:
            answer.set_result(func(store))
        except BaseException as error:  # noqa: BLE001 - raised where the result is read
            answer.set_exception(error)


@atexit.register
def _join_threads() -> None:
    """End the threads: one that returns while the interpreter ends would abort the process."""
    threads = dict(_threads)
    for requests in threads.values():
        requests.put(None)
    deadline = time.monotonic() + _JOIN_SECONDS
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))


_threads: weakref.WeakKeyDictionary[threading.Thread, _RequestQueue] = weakref.WeakKeyDictionary()
