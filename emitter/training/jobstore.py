"""The store by which torch.distributed found together, asked without ever hanging in it.

Its calls wait for the store's server without an end, and the server is often the launcher: to
freeze that would freeze every rank. So a thread asks, in the order it was told to, and whoever
wants the answer waits for it only so long.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from queue import SimpleQueue
from typing import Any

from lineside.emitter.spool.outside import comes_from_outside
from lineside.emitter.training.identity import job_store
from lineside.emitter.training.snapshot import one_line

SILENCE_SECONDS = 1_800.0
"""As long as torch.distributed waits for a peer unless told otherwise."""
_ANSWER_SECONDS = 10.0
_JOIN_SECONDS = 2.0
_SHORTEST_NAP, _LONGEST_NAP = 0.0002, 0.1

_Orders = SimpleQueue["tuple[Callable[[Any], Any], Future[Any]] | None"]


class PeersError(Exception):
    """Why the ranks do not agree on anything any more."""


class JobStore:
    """The keys that begin with ``prefix``, with values that JSON takes, but null. For one thread.

    Raises:
        PeersError: there is none; in every method: it failed, or did not answer for ``patience``
            seconds, and is not waited for again before it has. What it is told is done all the same
            when it comes to itself.
    """

    def __init__(self, prefix: str, patience: float = _ANSWER_SECONDS) -> None:
        store = job_store()
        if store is None:
            raise PeersError("torch.distributed is not in use, so its ranks cannot be asked")
        self._prefix = prefix
        self._patience = patience
        self._overdue: Future[Any] | None = None
        self._orders: _Orders = SimpleQueue()
        self._end = weakref.finalize(self, self._orders.put, None)
        asking = (store, self._orders)
        self._thread = threading.Thread(target=_ask, args=asking, name="lineside", daemon=True)
        self._thread.start()
        _threads[self._thread] = self._orders

    def close(self) -> None:
        """Return once all is done that it was told, but do not wait for long. Raises nothing."""
        self._end()
        if not self._is_silent():
            self._thread.join(_JOIN_SECONDS)

    @contextlib.contextmanager
    def patience(self, seconds: float) -> Iterator[None]:
        """Meanwhile wait so long for an answer."""
        before, self._patience = self._patience, seconds
        try:
            yield
        finally:
            self._patience = before

    def set(self, name: str, value: object) -> None:
        key, text = self._key(name), json.dumps(value)
        self._told(lambda store: store.set(key, text))

    def post(self, name: str, value: object) -> None:
        """Set it without waiting for that. Raises nothing."""
        key, text = self._key(name), json.dumps(value)
        self._order(lambda store: store.set(key, text))

    def find(self, name: str) -> Any:
        """Its value; None if nobody has set it."""
        key = self._key(name)
        text = self._told(lambda store: store.get(key) if store.check([key]) else None)
        return None if text is None else json.loads(text)

    def settle(self, name: str, value: object) -> Any:
        """Set it if nobody has; what it is now."""
        key, text = self._key(name), json.dumps(value)
        return json.loads(self._told(lambda store: store.compare_set(key, "", text)))

    def count(self, name: str, n: int) -> int:
        key = self._key(name)
        return int(self._told(lambda store: store.add(key, n)))

    def delete(self, name: str) -> None:
        """Raises nothing: not every kind of store can."""
        key = self._key(name)
        self._order(lambda store: store.delete_key(key))

    def wait(
        self, name: str, seconds: float, meanwhile: Callable[[], object] = lambda: None
    ) -> Any:
        """Its value; None if it did not come in time. ``meanwhile`` is called now and then."""
        until, nap = time.monotonic() + seconds, _SHORTEST_NAP
        while (value := self.find(name)) is None:
            if time.monotonic() > until:
                return None
            time.sleep(nap)
            nap = min(nap * 1.5, _LONGEST_NAP)
            meanwhile()
        return value

    def _is_silent(self) -> bool:
        return self._overdue is not None and not self._overdue.done()

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    def _order(self, act: Callable[[Any], Any]) -> Future[Any]:
        answer: Future[Any] = Future()
        self._orders.put((act, answer))
        return answer

    def _told(self, act: Callable[[Any], Any]) -> Any:
        patience = 0 if self._is_silent() else self._patience
        answer = self._order(act)
        try:
            return answer.result(patience)
        except Exception as error:  # each kind of store has its own errors
            if comes_from_outside(error):
                raise
            if isinstance(error, NoAnswer) and not answer.done():
                self._overdue = answer
                why = f"the job's store did not answer for {self._patience:g} s"
                raise PeersError(why) from None
            raise PeersError(f"the job's store failed: {one_line(error)}") from error


def _ask(store: Any, orders: _Orders) -> None:
    """Do what is ordered, one after another, until there is an order for None."""
    while (order := orders.get()) is not None:
        act, answer = order
        try:
            answer.set_result(act(store))
        except BaseException as error:  # noqa: BLE001 - who asked sorts it
            answer.set_exception(error)


@atexit.register
def _join() -> None:
    """A thread that comes out of the store while the interpreter ends would abort the process."""
    threads = dict(_threads)
    for orders in threads.values():
        orders.put(None)
    until = time.monotonic() + _JOIN_SECONDS
    for thread in threads:
        thread.join(max(until - time.monotonic(), 0))


_threads: weakref.WeakKeyDictionary[threading.Thread, _Orders] = weakref.WeakKeyDictionary()
