"""The job's store, asked by a thread that may be left waiting in it."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from lineside.emitter.training import jobstore
from lineside.emitter.training.jobstore import JobStore, PeersError
from tests.emitter.training.stores import Store

EXIT = """
import atexit, time
class Frozen:
    def __getattr__(self, name): return lambda *given: time.sleep(300)
class Well:
    def __getattr__(self, name): return lambda *given: True
atexit.register(lambda: print(time.monotonic() - ended))
from lineside.emitter import jobstore
kept = []
for store in [Well()] * 3 + [Frozen()] * 4:
    jobstore.job_store = lambda: store
    kept.append(jobstore.JobStore("keys", 0.1))
    kept[-1].post("name", 1)
ended = time.monotonic()
"""


def test_a_process_ends_in_time_however_many_stores_it_asked_and_are_frozen() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", EXIT], capture_output=True, text=True, check=True, timeout=60
    )
    assert ended.stderr == ""
    assert float(ended.stdout) < 6  # 2 s, and not 2 s for each


def test_a_store_that_was_silent_is_asked_again_once_it_has_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Store()
    monkeypatch.setattr(jobstore, "job_store", lambda: store)
    keys = JobStore("keys", 0.1)
    store.answers.clear()
    for _ in range(2):
        with pytest.raises(PeersError, match="the job's store did not answer"):
            keys.set("name", 1)
    store.answers.set()
    keys._patience = 10.0
    deadline = time.monotonic() + 10
    while keys._is_silent():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert keys.find("name") == 1
    keys.close()
